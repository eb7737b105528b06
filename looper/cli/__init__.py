"""The command line ``looper``: one module per command or group of commands, assembled here.

Commands import what they need inside their function, so that ``looper --help`` takes well under a second.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from looper.cli import (
    bench,
    chat,
    config,
    consolidate,
    demo,
    doctor,
    ingest,
    instances,
    jobs,
    login,
    operators,
    plan,
    serve_config,
    skills,
    starts,
    status,
    tenants,
    upgrade,
)
from looper.cli import up as cluster
from looper.cli.output import fail
from looper.cli.requirements import PACKAGE, describe_missing_module
from looper.platform.domain.actor import acting_as, local_user
from looper.platform.domain.errors import LooperError
from looper.platform.domain.private_files import keep_files_private

app = typer.Typer(
    name="looper",
    help="A skill layer for every deployed agent: trajectories in, a served adapter out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command()(plan.plan)
app.command()(cluster.up)
app.command()(status.status)
app.command()(upgrade.upgrade)
app.command()(cluster.down)
app.command()(serve_config.serve_config)
app.command()(login.login)
app.command()(login.logout)
app.add_typer(tenants.app, name="tenant")
app.add_typer(operators.app, name="operator")
app.add_typer(instances.app, name="instance")
app.command()(ingest.ingest)
app.command()(consolidate.consolidate)
app.command()(consolidate.move)
app.add_typer(jobs.app, name="jobs")
app.add_typer(skills.app, name="skills")
app.add_typer(starts.app, name="starts")
app.command()(chat.chat)
app.add_typer(bench.app, name="bench")
app.add_typer(config.app, name="config")

LOCAL_COMMANDS = {"demo", "doctor", "plan", "up", "upgrade", "down", "serve-config", "starts", "bench"}
"""Commands that work on this machine, also where others work on a remote Looper."""


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(version(PACKAGE))
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Settings file. Default: LOOPER_CONFIG, ./looper.yaml, ~/.looper/looper.yaml."),
    ] = None,
) -> None:
    if config is not None:
        os.environ["LOOPER_CONFIG"] = str(config.expanduser().absolute())
    command = context.invoked_subcommand
    if command in LOCAL_COMMANDS and "--help" not in sys.argv:
        login.note_that_it_is_local(command)


def main() -> None:
    """Run the command line. A mistake prints one line on standard error and exits with status 1, Ctrl-C with 130."""
    keep_files_private()
    try:
        with acting_as(f"cli:{local_user()}"):
            app(prog_name="looper")
    except LooperError as error:
        fail(error.detail)
    except ModuleNotFoundError as error:
        message = describe_missing_module(error)
        if message is None:
            raise
        fail(message)
    except SystemExit as error:
        if error.code == 130:  # typer turns Ctrl-C into this, without a message
            fail("interrupted; no work is lost: run the command again to continue", status=130)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}")
