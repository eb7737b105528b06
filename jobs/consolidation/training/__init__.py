"""Training: the trainer, its members, their sessions and checkpoints."""
