"""One command for a machine with a GPU: ``make gpu-check``. See ``__main__.py``."""
