"""Contexts: each example is also rendered beside notes and earlier episodes, as its agent may meet its task."""
