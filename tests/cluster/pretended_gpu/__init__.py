"""A cluster that takes its CPU for a GPU: Ray counts one, and engines and trainers take their branches for GPUs.

Looper knows nothing of it. Ray reads the GPUs of a node from a variable; vLLM has plugins for platforms, and Ray Train
callbacks: see ``environment``.
"""
