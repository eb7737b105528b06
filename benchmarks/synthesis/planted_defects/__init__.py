"""Trajectories of the gym with planted defects, to measure what a synthesis pipeline finds. See ``trajectories.py``."""
