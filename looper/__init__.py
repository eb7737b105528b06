"""Looper gives every deployed agent a skill layer.

Its packages: ``platform`` (types, stores, tenancy, HTTP), ``jobs`` (trajectories to adapters), ``serve`` (adapters to
responses), ``cluster`` (starting and stopping), ``benchmarks`` (measurements). This package itself has the command line
(``cli``), the demo and the gym.
"""

from pathlib import Path

if not Path(__path__[0], "platform").is_dir():
    # In a checkout without symbolic links (docs/decisions/0001), the packages are found beside this folder.
    __path__.append(str(Path(__path__[0]).parent))
