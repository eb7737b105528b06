"""What single operations cost on this machine, measured with the real code at full size."""
