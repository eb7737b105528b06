"""The check of commands finds what is wrong, and nothing else."""

import re

import pytest
import typer

from looper.cli import app
from tests.docs.commands import problems


@pytest.mark.parametrize(
    "right",
    [
        "looper tenant create acme",
        "$ looper ingest runs/ --instance acme/helpdesk   # a comment",
        "looper consolidate acme/helpdesk --wait --rank 8 && looper jobs list --json | less",
        "LOOPER_SERVE__PORT=9000 looper up",
        "looper --version",
        "make demo",
        "make environment MACHINE=gpu",
        "python -m looper.cli",
        "cd somewhere",
    ],
)
def test_what_is_right_passes(right: str) -> None:
    assert problems(right) == []


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("looper tenants create acme", "looper has no command tenants"),
        ("looper tenant make acme", "looper tenant has no command make"),
        ("looper tenant", "looper tenant wants a command"),
        ("looper consolidate acme/helpdesk --wate", "No such option: --wate"),
        ("looper consolidate --wait", "Missing argument"),
        ("looper consolidate acme/helpdesk --rank many", "many"),
        ("looper down now", "unexpected extra argument"),
        ("cd runs && looper ingest . --to acme/helpdesk", "No such option: --to"),
        ("LOOPER_SERVE__PROT=9000 looper up", "LOOPER_SERVE__PROT"),
        ("LOOPER_SERVE__PORT=many looper up", "serve.port = 'many'"),
        ("make demmo", "no target demmo"),
        ("python -m looper.benchmark", "no module looper.benchmark"),
        ("pytest tests/jobs/test_nothing.py", "there is no tests/jobs/test_nothing.py"),
        ("looper chat acme/helpdesk 'unfinished", "No closing quotation"),
    ],
)
def test_what_is_wrong_is_found(wrong: str, problem: str) -> None:
    (found,) = problems(wrong)
    assert problem in found


def test_in_a_sentence_arguments_may_be_missing_but_options_must_exist() -> None:
    assert problems("looper jobs show", whole=False) == []
    assert problems("looper consolidate --priority", whole=False) == []
    assert problems("looper jobs show --jason", whole=False) != []


def helps(command: object) -> list[str]:
    below = [text for sub in getattr(command, "commands", {}).values() for text in helps(sub)]
    return [getattr(command, "help", None) or "", *below]


def test_every_example_of_the_help_is_right() -> None:
    texts = helps(typer.main.get_command(app))
    examples = [example for text in texts for example in re.findall(r"Example: `(looper [^`]*)`", text)]
    assert len(examples) > 20
    assert [problem for example in examples for problem in problems(example)] == []
