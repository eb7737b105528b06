"""What ``/v1`` accepts: every field with its bounds, and the checks that a request passes before it is let in."""
