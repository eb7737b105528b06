"""Capacity: how many adapters one engine serves, how fast, and beside which peers."""
