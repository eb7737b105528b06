"""Adapters: immutable, named by their content, published before anything points to them."""

from looper.platform.adapters.files import AdapterFiles, Manifest
from looper.platform.adapters.promote import promote, rollback
from looper.platform.adapters.publish import fetch, publish

__all__ = ["AdapterFiles", "Manifest", "fetch", "promote", "publish", "rollback"]
