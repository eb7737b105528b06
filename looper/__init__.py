"""Looper gives every deployed agent a skill layer.

The rooms: ``platform`` (types, stores, tenancy, HTTP), ``jobs`` (trajectories to adapters), ``serve`` (adapters to
answers), ``cluster`` (bringing it up), ``benchmarks`` (the gym and the measurements). This package itself is only the
front door: the command line.
"""

from pathlib import Path

if not Path(__path__[0], "platform").is_dir():
    # In a checkout without links (docs/decisions/0001) the rooms are found where they are, beside this folder.
    __path__.append(str(Path(__path__[0]).parent))
