"""``looper serve-config``: prints what runs on a Ray cluster that exists."""

import typer

from looper.cli.output import Json, emit_json


def serve_config(json: Json = False) -> None:
    """Print the Ray Serve config of these settings: for `serve deploy`, and for KubeRay's RayService.

    It has no secrets. A comment in it names the environment variables that every node of the cluster needs.

    Example: `looper serve-config > looper-serve.yaml`
    """
    from looper.cluster.serve_config import build_serve_config, format_serve_config
    from looper.platform.settings import load_settings

    settings = load_settings()
    if json:
        emit_json(build_serve_config(settings))
    else:
        typer.echo(format_serve_config(settings), nl=False)
