"""LoRA and its variants during training, and the files of an adapter."""
