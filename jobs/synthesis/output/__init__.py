"""The files that synthesis writes: examples, pairs, rejected trajectories and the report."""
