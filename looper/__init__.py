"""Looper gives every deployed agent a skill layer.

The rooms: ``platform`` (types, stores, tenancy, HTTP), ``jobs`` (trajectories to adapters), ``serve`` (adapters to
answers), ``cluster`` (bringing it up), ``benchmarks`` (the gym and the measurements). This package itself is only the
front door: the command line.
"""
