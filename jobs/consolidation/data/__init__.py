"""From examples to windows of tokens, and from windows to packed batches."""
