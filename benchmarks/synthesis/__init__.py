"""Benchmarks of synthesis: ``looper bench synthesis``, planted defects, and the ablation of its stages."""
