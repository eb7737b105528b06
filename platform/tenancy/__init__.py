"""API keys: bearer tokens with scopes. Each belongs to one tenant, or is an operator's."""

from looper.platform.tenancy.keys import KeyReader, authenticate, issue_key

__all__ = ["KeyReader", "authenticate", "issue_key"]
