"""What is secret or personal in a text, and what stands for it: the parts that ``scrub.py`` is made of.

``fields.py`` judges by the name of a field, ``people.py`` finds personal data in free text, ``credentials.py`` secrets,
and ``placeholders.py`` makes what takes their place.
"""
