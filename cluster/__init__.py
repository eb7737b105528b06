"""Bringing Looper up on a machine: a local Ray, the head process that works and serves, and its supervisor."""
