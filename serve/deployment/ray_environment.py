"""Environment variables that Ray's processes need on every machine of a cluster. Set before Ray is started there."""

import os

from looper.serve.deployment import proxy_errors

RAY_ENVIRONMENT = {
    # Read by the HTTP proxy.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{proxy_errors.__name__}.{proxy_errors.proxy_middlewares.__name__}",
    # The controller starts another proxy after three checks of a dead one that failed. By default, that takes 30 s.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    # By default, a proxy that does not start within three times 5 s is killed, and the next one begins from the start.
    # On a busy machine, that was repeated for a minute and a half.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # The path of a token from the engine to the client costs a third less with gRPC and without extra threads.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # By default, Ray's own helpers go before its workers, which are gateways and engines here. On a machine whose cores
    # are all busy, the time to the first token was twice to three times as long with that default.
    "RAY_worker_niceness": "0",
}


def set_ray_environment() -> None:
    """Set the variables for a Ray that this process starts. Variables that are set already keep their values."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
