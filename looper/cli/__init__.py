"""The command line. Heavy imports happen inside the command that needs them, so that ``--help`` answers at once."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from looper.cli import bench, chat, config, consolidate, demo, ingest, instances, jobs, skills, tenants
from looper.cli import up as bring_up
from looper.cli.needs import PACKAGE, in_words
from looper.cli.output import fail
from looper.platform.domain.errors import LooperError

app = typer.Typer(
    name="looper",
    help="A skill layer for every deployed agent: trajectories in, a served adapter out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(demo.demo)
app.command()(bring_up.up)
app.command()(bring_up.status)
app.command()(bring_up.down)
app.add_typer(tenants.app, name="tenant")
app.add_typer(instances.app, name="instance")
app.command()(ingest.ingest)
app.command()(consolidate.consolidate)
app.add_typer(jobs.app, name="jobs")
app.add_typer(skills.app, name="skills")
app.command()(chat.chat)
app.add_typer(bench.app, name="bench")
app.add_typer(config.app, name="config")


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(version(PACKAGE))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Settings file; default: LOOPER_CONFIG, ./looper.yaml, ~/.looper/looper.yaml."),
    ] = None,
) -> None:
    if config is not None:
        os.environ["LOOPER_CONFIG"] = str(config.expanduser().absolute())


def main() -> None:
    """Run the command line: a mistake is one line on standard error and exit status 1, an interrupt is 130."""
    try:
        app(prog_name="looper")
    except LooperError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        missing = in_words(error)
        if missing is None:
            raise
        fail(missing)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C, without a word
            fail("interrupted; nothing is lost: run the command again to go on", status=130)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
