"""The object store: immutable bytes under keys, in a local folder or on S3."""

from looper.platform.objectstore.store import ObjectStore

__all__ = ["ObjectStore"]
