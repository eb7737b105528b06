"""Evaluation of a candidate on held-out tasks: the numbers on which the gate decides."""
