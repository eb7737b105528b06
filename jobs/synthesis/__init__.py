"""Synthesis: turns recorded trajectories into training examples. ``pipeline.run.synthesize`` is the entry point."""
