"""Ablation of synthesis: skills trained with the whole pipeline, against skills trained on the successes as they are.

``noisy_agent.py`` plays the trajectories of a careless agent, ``variants.py`` makes training data of them in several
ways, ``live_evaluation.py`` lets a trained skill work on held-out tasks, and ``bench.py`` runs all of it. The guide is
docs/synthesis.md.
"""
