"""Serving: the gateway, the engines, their adapter cache, and their deployment on Ray Serve."""
