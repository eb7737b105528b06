"""``python -m looper`` runs the command line."""

from looper.cli import main

main()
