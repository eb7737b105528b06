"""API keys: bearer tokens that belong to one tenant and have scopes."""

from looper.platform.tenancy.keys import authenticate, issue_key

__all__ = ["authenticate", "issue_key"]
