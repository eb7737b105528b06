"""Adapters: immutable files that the digest of their content identifies.

An adapter is in the object store before a channel points to it.
"""

from looper.platform.adapters.files import AdapterFiles, Manifest
from looper.platform.adapters.promote import promote, rollback
from looper.platform.adapters.publish import fetch, publish

__all__ = ["AdapterFiles", "Manifest", "fetch", "promote", "publish", "rollback"]
