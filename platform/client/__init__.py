"""The Python client of the control plane, for applications and scripts.

>>> from looper.platform.client import Client
>>> with Client("http://127.0.0.1:8000", key="looper_...") as looper:      # doctest: +SKIP
...     looper.ingest("helpdesk", "monday.jsonl")
...     jobs = looper.wait(looper.consolidate(["helpdesk"]))
"""

from looper.platform.client.client import Client

__all__ = ["Client"]
