"""``looper doctor``: whether agents on a base model can be taught, and what."""

from typing import Annotated

import typer

from looper.cli import requirements
from looper.cli.output import Json, emit_json, progress, table


def doctor(
    base: Annotated[
        str | None, typer.Argument(help="Base model, as the setting base has it. Default: the first of the settings.")
    ] = None,
    json: Json = False,
) -> None:
    """Try out a base model: which messages it is shown, whether tool calls survive, what adapters change.

    Without an error, agents on it can be taught.

    Example: `looper doctor Qwen/Qwen3-8B`, `looper doctor ./my-base --json`
    """
    requirements.check_machine("looper doctor")

    from looper.basemodel.prepare import prepare_base
    from looper.basemodel.vllm_logging import import_vllm_quietly
    from looper.platform.settings import load_for_base

    settings = load_for_base(base)
    with progress() as live:
        line = live.add_task("base model", total=None, note=f"{settings.base}: preparing it")
        folder = prepare_base(settings)
        live.update(line, note=f"{settings.base}: trying it out")
        with import_vllm_quietly():
            from looper.basemodel.diagnosis import diagnose
        found = diagnose(folder)
    if json:
        emit_json(found)
        return
    layers = ", ".join(f"{count} {name}" for name, count in found.adapted.items())
    rows = [
        ("can be taught", "yes"),
        ("architecture", found.architecture),
        ("adapters change", f"{layers}: {found.adapted_share:.0%} of {found.parameters:,} parameters"),
        ("chat template", found.template),
        ("reaches the prompt", ", ".join(("user, tool", *found.roles))),
        ("history", "only appended" if found.keeps_history else "rewritten: each turn is trained by itself"),
        ("tool calls", found.tool_calls),
        ("tool call parser", found.parsers.tool_call_parser),
        ("reasoning", found.reasoning),
        ("files", folder),
    ]
    table(("", settings.base), rows, empty="")
