"""Run real tenants through the command line: ingest, consolidate all at once, and ask each published skill by name.

``python -m looper.benchmarks.real_tenants.cohort FOLDER --home HOME --out OUT`` runs the same commands as a user, on a
folder with one folder of trajectories per tenant, and writes ``tenants-cohort.{json,md}``. It shows that the whole way
works, from files to answers over HTTP; how good the skills are is measured by ``__main__.py``.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai

INSTANCE = "agent"
"""Name of each tenant's instance."""
QUESTION = "Hello, what can you do for me today?"
"""The message that each skill answers."""


def main() -> None:
    """Run all commands and write ``tenants-cohort.json`` and ``tenants-cohort.md``."""
    parser = argparse.ArgumentParser(prog="python -m looper.benchmarks.real_tenants.cohort", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("tenants"))
    parser.add_argument("--flags", default="", help="flags of looper consolidate; default: the default recipe")
    arguments = parser.parse_args()
    commands = _CommandLine(arguments.home)
    tenants = sorted(path.name for path in arguments.folder.iterdir() if path.is_dir())
    ingested = {tenant: commands.ingest(tenant, arguments.folder / tenant) for tenant in tenants}
    started = time.monotonic()
    flags, names = shlex.split(arguments.flags), [f"{tenant}/{INSTANCE}" for tenant in tenants]
    consolidations = commands.consolidate(names, flags)
    seconds = time.monotonic() - started
    answers = commands.ask([_model_name(job) for job in consolidations if job["state"] == "published"])
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "command": shlex.join(["looper", "consolidate", *names, "--wait", *flags]),
        "seconds": round(seconds),
        "tenants": [
            {
                "instance": job["instance"],
                "trajectories": ingested[job["instance"].partition("/")[0]],
                "state": job["state"],
                "reason": job["reason"] or (job["verdict"] or {}).get("reason"),
                "verdict": job["verdict"],
                "digest": job["digest"],
                "answer": answers.get(_model_name(job)),
            }
            for job in consolidations
        ],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "tenants-cohort.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (arguments.out / "tenants-cohort.md").write_text(to_markdown(result))
    print(to_markdown(result))


class _CommandLine:
    """Looper's commands with one ``LOOPER_HOME``; their progress is printed."""

    def __init__(self, home: Path) -> None:
        self._environment = os.environ | {"LOOPER_HOME": str(home), "LOOPER_SERVE__PORT": "0"}

    def ingest(self, tenant: str, folder: Path) -> int:
        """Ingest a folder; return how many trajectories were accepted."""
        self._run("tenant", "create", tenant, check=False)  # the tenant exists when this runs again
        report = json.loads(self._run("ingest", str(folder), "--instance", f"{tenant}/{INSTANCE}", "--json"))
        return sum(file["kept"] for file in report["files"])

    def consolidate(self, names: list[str], flags: list[str]) -> list[dict[str, Any]]:
        consolidations: list[dict[str, Any]] = json.loads(
            self._run("consolidate", *names, "--wait", *flags, "--json", check=False)
        )
        return consolidations

    def ask(self, instances: list[str]) -> dict[str, str]:
        """Return the answer of each skill over HTTP."""
        url = json.loads(self._run("up", "--json"))["url"]
        try:
            return {instance: self._answer(url, instance) for instance in instances}
        finally:
            self._run("down")

    def _answer(self, url: str, instance: str) -> str:
        key = json.loads(self._run("tenant", "key", instance.partition("/")[0], "--days", "1", "--json"))["key"]
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=300) as client:
            answer = client.chat.completions.create(
                model=instance, messages=[{"role": "user", "content": QUESTION}], max_tokens=40, temperature=0.0
            )
        assert answer.model == instance
        return answer.choices[0].message.content or ""

    def _run(self, *arguments: str, check: bool = True) -> str:
        print("$ looper", shlex.join(arguments), flush=True)
        command = [sys.executable, "-m", "looper", *arguments]
        return subprocess.run(command, env=self._environment, check=check, stdout=subprocess.PIPE, text=True).stdout


def _model_name(job: dict[str, Any]) -> str:
    """Return the name that the version of a consolidation answers by: undecided ones are in the channel canary."""
    return f"{job['instance']}@canary" if (job["verdict"] or {}).get("undecided") else str(job["instance"])


def to_markdown(result: dict[str, Any]) -> str:
    """Format the results as Markdown.

    Args:
        result: The content of ``tenants-cohort.json``.

    Returns:
        The page.
    """
    lines = [
        "# Ten tenants, one cohort",
        "",
        "Real trajectories of ten small businesses (tau2 simulations), consolidated as one cohort on SmolLM2-135M and",
        "asked by name over HTTP. Made by `python -m looper.benchmarks.real_tenants.cohort FOLDER --home HOME`; the",
        "numbers are in [tenants-cohort.json](tenants-cohort.json).",
        "",
        f"Machine: {result['machine']}. From submission to the last verdict: {result['seconds']} s.",
        "",
        "```",
        f"$ {result['command']}",
        "```",
        "",
        "| skill | trajectories | verdict | why | adapter | answers by name |",
        "| --- | ---: | --- | --- | --- | --- |",
    ]
    for tenant in result["tenants"]:
        digest = f"`{tenant['digest'][:12]}`" if tenant["digest"] else "-"
        answered = "-" if tenant["answer"] is None else "yes"
        cells = [*(str(tenant[name]) for name in ("instance", "trajectories", "state", "reason")), digest, answered]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
