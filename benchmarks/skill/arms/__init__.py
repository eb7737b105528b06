"""The knowledge layers of the benchmark: what an agent has in its prompt, beside or instead of a skill."""
