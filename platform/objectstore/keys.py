"""Keys of all objects in the object store.

The parts of a key are validated names or digests, so a key is always a plain relative path. The layout must not change,
because existing stores have it.
"""

from looper.platform.domain.names import InstanceName

REVOCATIONS = "revoked"
"""Folder of the markers of all revocations."""

CHECKPOINTS = "checkpoints"
"""Folder of all checkpoints."""


def trajectories(instance: InstanceName, batch: str) -> str:
    """Return the key of the trajectories of the batch ``batch`` of ``instance``."""
    return f"trajectories/{instance}/{batch}.parquet"


def examples(consolidation: str, part: str) -> str:
    """Return the key of one file that synthesis writes.

    Args:
        consolidation: Id of the consolidation.
        part: File name: ``train.parquet``, ``holdout.parquet``, ``pairs.parquet``, ``rejected.parquet``,
            ``report.json`` or ``report.html``; with the stages that make them also ``rules.json`` and
            ``variants.json``.

    Returns:
        The key.
    """
    return f"examples/{consolidation}/{part}"


UPLOADS = "uploads"
"""Folder of the parts of all uploads that have not ended."""


def upload(tenant: str, id: str) -> str:
    """Return the folder of the parts of the upload ``id`` of ``tenant``."""
    return f"{UPLOADS}/{tenant}/{id}"


def upload_part(tenant: str, id: str, number: int) -> str:
    """Return the key of the part with the ``number`` from 0 of the upload ``id`` of ``tenant``."""
    return f"{upload(tenant, id)}/{number:05d}"


def adapter(tenant: str, digest: str, file: str) -> str:
    """Return the key of the file named ``file`` of the adapter ``digest`` of ``tenant``."""
    return f"adapters/{tenant}/{digest}/{file}"


STARTS = "starts"
"""Folder of the starts of all base models."""


def starts(base_revision: str) -> str:
    """Return the folder of all starts of the base model whose weights have the digest ``base_revision``."""
    return f"{STARTS}/{base_revision}"


def start(base_revision: str, name: str) -> str:
    """Return the folder of the start ``name`` of a base model."""
    return f"{starts(base_revision)}/{name}"


def start_file(base_revision: str, name: str, digest: str, file: str) -> str:
    """Return the key of the file named ``file`` of one adapter that the start ``name`` is, or was before."""
    return f"{start(base_revision, name)}/{digest}/{file}"


def start_pointer(base_revision: str, name: str, number: int) -> str:
    """Return the key of the object that names a start's digest. Of several, the one with the highest number counts."""
    return f"{start(base_revision, name)}/{number:08d}.json"


def strategy_state(instance: InstanceName, version: str) -> str:
    """Return the key of the strategy state that belongs to the version with the digest ``version`` of ``instance``."""
    return f"memory/{instance}/{version}.safetensors"


def high_water_marks(instance: InstanceName, version: str) -> str:
    """Return the key of the best results of the lineage of the version with the digest ``version`` of ``instance``."""
    return f"memory/{instance}/{version}.marks.json"


def checkpoints(consolidation: str) -> str:
    """Return the folder of the checkpoints of the consolidation with the id ``consolidation``."""
    return f"{CHECKPOINTS}/{consolidation}"


def revocation(kind: str, id: str) -> str:
    """Return the key of the marker of a revocation.

    Args:
        kind: ``version`` or ``key``.
        id: Digest of the version, or id of the key.

    Returns:
        The key.
    """
    return f"{REVOCATIONS}/{kind}/{id}"


def llm_response(tenant: str, digest: str) -> str:
    """Return the key of a cached response of the language model that synthesis asks.

    Args:
        tenant: Tenant whose data is in the request.
        digest: Digest of everything that determines the response.

    Returns:
        The key.
    """
    return f"answers/{tenant}/{digest}.json"


def base_model(digest: str, file: str) -> str:
    """Return the key of the file named ``file`` of the base model whose list of files has the digest ``digest``."""
    return f"bases/{digest}/{file}"
