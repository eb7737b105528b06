"""Whether synthesis pays: skills from the whole pipeline against skills from whatever succeeded.

``noisy.py`` plays what a careless agent leaves behind, ``variants.py`` makes training data of it in several ways,
``live.py`` lets a trained skill work on held-out tasks, and ``bench.py`` runs them all. The guide: docs/synthesis.md.
"""
