"""Secrets and personal data in texts: how they are found, and the placeholders that replace them.

The synthesis stage ``stages/scrub.py`` calls ``replacement_plan.py``, which calls the other modules: ``fields.py``
judges a value by the name of its field, ``personal_data.py`` and ``labeled_values.py`` search free text,
``credentials.py`` finds secrets, ``known_values.py`` finds further occurrences of a value, and ``placeholders.py``
chooses what replaces it.
"""
