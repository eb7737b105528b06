"""CPU engines: cores and threads, and LoRA by a kernel of their own."""
