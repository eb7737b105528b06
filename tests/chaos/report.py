"""The results of runs as JSON, and all of them as a page."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel


class ChaosResult(BaseModel):
    """What one run found."""

    seed: int
    minutes: float
    machine: str
    commit: str
    errors: list[str]
    """Everything that must never happen, in words."""
    outcomes: dict[str, int]
    """Requests of the well-behaved tenants by outcome."""
    hostile: dict[str, int]
    """Requests of the hostile tenant by outcome."""
    operations: dict[str, int]
    consolidations: dict[str, int]
    """Accepted consolidations by final state."""
    answered: dict[str, int]
    """Complete answers by tenant."""
    unfairness: float
    """Most complete answers of a tenant divided by the fewest."""
    quiet_ttft_p95_s: float | None
    recovery_s: dict[str, list[float]]
    """Seconds from the end of a fault until the next complete answer, by fault."""
    resources: dict[str, dict[str, int]]
    """Memory and file descriptors by role, in the first and the last third of the run."""

    def write(self, folder: Path) -> Path:
        """Write the result as JSON; return the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"chaos-{self.seed}.json"
        path.write_text(self.model_dump_json(indent=1) + "\n")
        return path


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items(), key=lambda each: -each[1]))


def to_markdown(results: Sequence[ChaosResult]) -> str:
    """Return a page with all runs.

    Args:
        results: The runs, at least one.
    """
    lines = [
        "# What the cluster survives",
        "",
        "Made by `make chaos` (`python -m tests.chaos`): a live cluster with two engines on PostgreSQL and S3, four",
        "tenants under load, a hostile tenant, and one fault after another. A seed replays its schedule.",
        "",
        "| seed | minutes | answers | wrong, lost or doubled | most / fewest answers of a tenant | TTFT p95, quiet |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in results:
        ttft = "-" if each.quiet_ttft_p95_s is None else f"{each.quiet_ttft_p95_s:.2f} s"
        row = (
            each.seed,
            f"{each.minutes:g}",
            sum(each.answered.values()),
            len(each.errors),
            f"{each.unfairness:.2f}",
            ttft,
        )
        lines.append("| " + " | ".join(map(str, row)) + " |")
    for each in results:
        lines += ["", f"## Seed {each.seed}", "", f"{each.machine}, commit {each.commit}.", ""]
        lines += [f"- Requests: {_counts(each.outcomes)}.", f"- Hostile requests: {_counts(each.hostile)}."]
        lines += [f"- Operations: {_counts(each.operations)}.", f"- Consolidations: {_counts(each.consolidations)}."]
        lines += ["", "| fault | times | longest until the next answer |", "| --- | --- | --- |"]
        for fault, seconds in sorted(each.recovery_s.items()):
            lines.append(f"| {fault} | {len(seconds)} | {max(seconds):.1f} s |")
        lines += ["", "| process | MiB, first third | last third | descriptors, first third | last third |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for role, one in sorted(each.resources.items()):
            lines.append(f"| {role} | " + " | ".join(str(value) for value in one.values()) + " |")
        lines += ["", *(f"- `{error}`" for error in each.errors)]
    return "\n".join(lines).rstrip() + "\n"
