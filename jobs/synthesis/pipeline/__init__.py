"""Runs the stages of synthesis, in one process or with Ray Data."""
