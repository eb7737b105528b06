"""The gate: decide whether a candidate may replace the version that is served now, and with how much evidence.

``judge.py`` is called by ``looper.jobs.queue.publication`` with the scores that the trainer has measured.
"""
