"""API keys: bearer tokens that belong to one tenant and have scopes."""

from looper.platform.tenancy.keys import KeyReader, authenticate, issue_key

__all__ = ["KeyReader", "authenticate", "issue_key"]
