"""Domain types that all rooms share. They import neither a database nor torch, Ray or vLLM."""
