"""Stands in for ``looper.cluster.app``: a builder that takes the same arguments and answers with what it was given."""

import os
from typing import Any

from ray import serve
from starlette.requests import Request


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Echo:
    def __init__(self, args: dict[str, Any]) -> None:
        self._args = args

    async def __call__(self, request: Request) -> dict[str, Any]:
        return {"args": self._args, "bytes": len(await request.body()), "environment": dict(os.environ)}


def build(args: dict[str, Any]) -> serve.Application:
    return Echo.bind(args)
