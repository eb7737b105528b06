"""The gateway of the tests in this folder."""

from tests.serve.gateway.harness import gateway

__all__ = ["gateway"]
