"""What ``looper tenant`` and ``looper operator`` print about keys and audit trails."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from looper.cli.output import emit_json, format_time, table

if TYPE_CHECKING:
    from looper.platform.api.tenant_models import AuditInfo, KeyInfo


def show_key(owner: str, names: dict[str, str], key: str, json: bool) -> None:
    """Print a new key.

    Args:
        owner: Whom it belongs to, in words.
        names: What the JSON has about it besides the key.
        key: The key.
        json: Whether to print JSON.
    """
    if json:
        emit_json({**names, "key": key})
    else:
        typer.echo(f"{owner}, key (shown this once): {key}")


def show_keys(keys: "Sequence[KeyInfo]", all_: bool, json: bool, *, empty: str) -> None:
    """Print keys.

    Args:
        keys: The keys.
        all_: Whether to print those that have expired or are revoked, too.
        json: Whether to print JSON.
        empty: Sentence to print if there are none.
    """
    found = [key for key in keys if all_ or key.state == "valid"]
    if json:
        emit_json(found)
        return
    table(
        ["key", "id", "scopes", "created", "last used", "expires", "state"],
        [
            (
                key.name,
                key.id,
                ",".join(key.scopes),
                format_time(key.created_at),
                format_time(key.last_used_at),
                format_time(key.expires_at),
                key.state,
            )
            for key in found
        ],
        empty=empty,
    )


def show_audit_trail(events: "Sequence[AuditInfo]", json: bool) -> None:
    """Print an audit trail.

    Args:
        events: Its entries.
        json: Whether to print JSON.
    """
    if json:
        emit_json(events)
        return
    table(
        ["when", "who", "instance", "what"],
        [(format_time(event.at), event.actor or None, event.instance, event.what) for event in events],
        empty="no changes yet",
    )
