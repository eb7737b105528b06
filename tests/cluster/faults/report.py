"""The figures of all faults as JSON, and all of them as a page."""

from pathlib import Path

from pydantic import BaseModel

from tests.cluster.faults.measure import BOUND_S, GRACE_S, LONGEST_ATTEMPT_S, FaultResult

DESCRIPTIONS = {
    "kill-engine-1": "A node with an engine and a gateway loses its power, and starts again 20 s later.",
    "kill-engine-2": "The other one does.",
    "kill-trainer": "The node that trains does.",
    "kill-head": "The head of Ray does. It keeps its tables on disk.",
    "drain": f"A node with an engine is told to go within {GRACE_S} s, goes, and another one comes.",
    "stop": "All processes of a node with an engine stand still for 30 s.",
    "cut-off": "All packets of a node with an engine are lost for 30 s.",
}

INTRODUCTION = f"""# What a cluster of several nodes survives

Made by `python -m tests.cluster.faults`: a head without a part of Looper, two nodes with room for one engine and
gateway each, and one that trains, all in namespaces of their own on one machine, with PostgreSQL and S3 beside. Four
tenants ask their skills by name through a balancer, which looks every second which addresses answer. They repeat
what was refused for now (503 with `Retry-After`) and what was lost with an address. Two consolidations are
submitted before each fault. If Ray gives a node up and ends there, it is started again, as KubeRay or systemd do.

The targets: no wrong answer; no attempt takes longer than {LONGEST_ATTEMPT_S:.0f} s (`serve.request_timeout_s` is 60);
attempts are lost only at the address of the node with the fault; every other failure says when to try again; all
is as before {BOUND_S:.0f} s after the end of the fault; every consolidation ends once.
"""

COLUMNS = (
    "fault",
    "requests",
    "attempts: right / refused for now / lost with the address",
    "longest attempt",
    "longest request, with all attempts",
    "lasted",
    "as before after",
    "missed",
)


class Run(BaseModel):
    """One run of the lab."""

    machine: str
    commit: str
    faults: list[FaultResult]
    consolidations: dict[str, int]
    """How many were submitted, how many ended how, and how many instances have not exactly one version."""

    def find_misses(self) -> list[str]:
        """Return everything that was not as it should be, in words."""
        missed = [f"{fault.fault}: {each}" for fault in self.faults for each in fault.missed]
        counts = self.consolidations
        ended = sum(counts.get(state, 0) for state in ("published", "rejected"))
        if ended != counts["submitted"]:
            missed.append(f"{counts['submitted']} consolidations were submitted, and {ended} ended: {counts}")
        if counts["doubled"]:
            missed.append(f"{counts['doubled']} instances have not exactly one version")
        return missed


class ClusterResults(BaseModel):
    """The latest run of each fault."""

    runs: list[Run] = []

    @classmethod
    def load(cls, folder: Path) -> "ClusterResults":
        """Read what earlier runs have written."""
        path = folder / "cluster.json"
        return cls.model_validate_json(path.read_text()) if path.exists() else cls()

    def add(self, run: Run) -> None:
        """Add a run. It takes the place of earlier ones of the same faults."""
        new = {fault.fault for fault in run.faults}
        for each in self.runs:
            each.faults = [fault for fault in each.faults if fault.fault not in new]
        self.runs = [each for each in self.runs if each.faults] + [run]

    def write(self, folder: Path) -> None:
        """Write the figures and the page."""
        (folder / "cluster.json").write_text(self.model_dump_json(indent=1) + "\n")
        (folder / "cluster.md").write_text(self.to_markdown())

    def to_markdown(self) -> str:
        """Return the page."""
        lines = [INTRODUCTION, f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
        found = {fault.fault: fault for run in self.runs for fault in run.faults}
        lines += [_row(found[name]) for name in DESCRIPTIONS if name in found]
        lines += ["", *(f"- **{name}**: {text}" for name, text in DESCRIPTIONS.items() if name in found)]
        lines += ["", "## Runs", ""]
        for run in self.runs:
            counts = ", ".join(f"{name}: {count}" for name, count in sorted(run.consolidations.items()))
            lines.append(f"- {', '.join(fault.fault for fault in run.faults)}: {run.machine}, commit {run.commit}.")
            lines.append(f"  Consolidations: {counts}. Missed: {'; '.join(run.find_misses()) or 'nothing'}.")
        lines += ["", "[All figures](cluster.json), with every reason.", ""]
        return "\n".join(lines)


def _row(fault: FaultResult) -> str:
    kinds = dict.fromkeys(("right", "refused", "lost"), 0)
    for reason, count in fault.attempts.items():
        if reason.split()[0] in kinds:
            kinds[reason.split()[0]] += count
    recovered = "-" if fault.recovered_s is None else f"{fault.recovered_s:.0f} s"
    row = (
        fault.fault,
        fault.requests,
        " / ".join(map(str, kinds.values())),
        f"{fault.slowest_attempt_s:.1f} s",
        f"{fault.slowest_request_s:.1f} s",
        f"{fault.fault_s:.0f} s",
        recovered,
        "; ".join(fault.missed) or "nothing",
    )
    return f"| {' | '.join(map(str, row))} |"
