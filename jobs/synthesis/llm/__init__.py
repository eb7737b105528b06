"""Stages of synthesis that ask a language model, and the ways to ask it."""
