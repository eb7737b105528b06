"""Strategies against forgetting, which a recipe names, and what they are made of."""
