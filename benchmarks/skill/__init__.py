"""``looper bench skill``: a skill against what an agent could have in its prompt instead of it, and beside it."""
