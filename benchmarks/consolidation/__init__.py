"""Consolidation: the same jobs by Looper and by simpler ways, compared in one run."""
