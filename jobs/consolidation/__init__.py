"""Consolidation: training, evaluation and strategies against forgetting."""
