"""Where things are in the object store: the layout of DESIGN as functions. All parts are validated names or digests."""

from looper.platform.domain.names import InstanceName

CHECKPOINTS = "checkpoints"


def trajectories(instance: InstanceName, batch: str) -> str:
    return f"trajectories/{instance}/{batch}.parquet"


def examples(consolidation: str, part: str) -> str:
    """``part``: ``train``, ``holdout``, ``pairs`` or ``rejected.parquet``, ``report.json`` or ``report.html``;
    ``rules.json`` and ``variants.json`` where they were asked for.
    """
    return f"examples/{consolidation}/{part}"


def adapter(tenant: str, digest: str, file: str) -> str:
    return f"adapters/{tenant}/{digest}/{file}"


def memory(instance: InstanceName, version: str) -> str:
    return f"memory/{instance}/{version}.safetensors"


def checkpoints(consolidation: str) -> str:
    return f"{CHECKPOINTS}/{consolidation}"


def answer(tenant: str, digest: str) -> str:
    """What a language model answered in synthesis; ``digest`` is of all that decided the answer."""
    return f"answers/{tenant}/{digest}.json"
