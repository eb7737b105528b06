"""Starts: adapters from which the first training of an instance begins, shared by all instances of a base model.

    starts/<base revision>/<name>/<digest>/{adapter_model.safetensors, adapter_config.json, manifest.json}
    starts/<base revision>/<name>/<number>.json

The second is a pointer to a digest. It is written last, so a start is there completely or not at all. Objects never
change: replacing a start writes a pointer with the next number, and the highest number counts. The files of earlier
ones stay until the start is removed, because a consolidation may have begun from them.

An operator adds starts by ``looper starts add``. Submission, queue workers and trainers look them up.
"""

import re
from collections.abc import Sequence

import orjson
from pydantic import BaseModel, ConfigDict

from looper.platform.adapters.files import AdapterFiles
from looper.platform.adapters.publish import read_verified
from looper.platform.domain.adapter_digest import FILE_NAMES, MANIFEST_FILE
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import check_name
from looper.platform.domain.recipe import Recipe
from looper.platform.objectstore import ObjectStore, keys

_POINTER = re.compile(r".*/(\d{8})\.json")
"""Key of a pointer."""


class StartManifest(BaseModel):
    """What is known of a start's adapter. The file ``manifest.json`` has it, so the digest covers it."""

    model_config = ConfigDict(frozen=True)

    base: str
    """Base model, as the settings name it."""
    base_revision: str
    """Digest of the base model's weights."""
    rank: int
    """LoRA rank."""
    target_modules: tuple[str, ...]
    """Layers that it adapts, by the last part of their name, sorted."""
    adapts_all: bool
    """Whether these are all layers of the base model that adapters can change."""

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON with sorted keys."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


class Start(StartManifest):
    """A start by its name."""

    name: str
    """Name by which a recipe chooses it."""
    digest: str
    """Digest of its files."""


class _Pointer(BaseModel):
    """Content of a pointer."""

    digest: str
    """Digest of the start's files."""


def add_start(store: ObjectStore, name: str, files: AdapterFiles) -> Start:
    """Write a start, read it back, verify it, and point its name to it. Adding the same again changes nothing.

    Args:
        store: Object store.
        name: Name of the start. If there is one for this base revision, it is replaced.
        files: The adapter, with a ``StartManifest``.

    Returns:
        The start.

    Raises:
        InvalidInput: The name is not valid.
        CorruptAdapter: The store returned other bytes than were written.
        StoreUnavailable: The object store failed.
    """
    check_name(name, "start")
    manifest = StartManifest.model_validate_json(files.manifest)
    start = Start(**manifest.model_dump(), name=name, digest=files.digest)
    for file, content in files.to_dict().items():
        store.put(keys.start_file(start.base_revision, name, start.digest, file), content)
    fetch_start(store, start)
    if _load(store, start.base_revision, name) != start:
        number = max(_list_numbers(store, start.base_revision, name), default=0) + 1
        pointer = _Pointer(digest=start.digest).model_dump_json().encode()
        store.put(keys.start_pointer(start.base_revision, name, number), pointer)
    return start


def list_starts(store: ObjectStore) -> list[Start]:
    """Return all starts, sorted by name.

    Args:
        store: Object store.

    Returns:
        The starts of all base models and of all their revisions.

    Raises:
        StoreUnavailable: The object store failed.
    """
    found = [
        _load(store, revision, name)
        for revision in store.list_folders(keys.STARTS)
        for name in store.list_folders(keys.starts(revision))
    ]
    return sorted((start for start in found if start), key=lambda start: (start.name, start.base, start.base_revision))


def find_start(store: ObjectStore, recipe: Recipe, base: str, revision: str | None = None) -> Start:
    """Find the start that a recipe names, and check that training by the recipe can begin from it.

    Args:
        store: Object store.
        recipe: A recipe with a start.
        base: Base model to train on, as the settings name it.
        revision: Digest of its weights. None: it is not known here, so the start may be for any revision of ``base``.

    Returns:
        The start.

    Raises:
        InvalidInput: There is no such start for this base model, or it adapts other layers than the recipe.
        StoreUnavailable: The object store failed.
    """
    assert recipe.start is not None
    revisions = store.list_folders(keys.STARTS)
    found = [start for each in revisions if (start := _load(store, each, recipe.start))]
    fitting = [each for each in found if (each.base == base if revision is None else each.base_revision == revision)]
    if not fitting:
        raise InvalidInput(f"{_describe_missing(recipe.start, base, revision, found)}; {_way_out(recipe.start, base)}")
    for start in fitting:
        wanted = recipe.target_modules
        if start.adapts_all if wanted is None else set(wanted) == set(start.target_modules):
            return start
    raise InvalidInput(
        f"start {recipe.start!r} adapts {', '.join(fitting[0].target_modules)}, and the recipe adapts "
        f"{'all layers' if recipe.target_modules is None else ', '.join(recipe.target_modules)}: give the recipe the "
        "target_modules of the start"
    )


def fetch_start(store: ObjectStore, start: Start) -> AdapterFiles:
    """Download the files of a start and verify their digest.

    Args:
        store: Object store.
        start: The start.

    Returns:
        Its files.

    Raises:
        NotFound: A file is missing, because the start was removed.
        CorruptAdapter: The content does not match the digest.
        StoreUnavailable: The object store failed.
    """
    way_out = f"remove it and add it again (looper starts remove {start.name} --base {start.base})"
    keys_by_name = {file: keys.start_file(start.base_revision, start.name, start.digest, file) for file in FILE_NAMES}
    return read_verified(store, start.digest, keys_by_name, f"start {start.name!r}", way_out, None)


def load_start(store: ObjectStore, revision: str, name: str, digest: str) -> Start:
    """Load what is known of a start's adapter that its name may no longer point to.

    Args:
        store: Object store.
        revision: Digest of the base model's weights.
        name: Name of the start.
        digest: Digest of its files.

    Returns:
        The start.

    Raises:
        NotFound: The start was removed.
        StoreUnavailable: The object store failed.
    """
    try:
        content = store.get(keys.start_file(revision, name, digest, MANIFEST_FILE))
    except NotFound as error:
        raise NotFound(
            f"start {name!r} with the digest {digest} was removed: an operator can add it again (looper starts add)"
        ) from error
    manifest = StartManifest.model_validate_json(content)
    return Start(**manifest.model_dump(), name=name, digest=digest)


def remove_start(store: ObjectStore, name: str, base: str) -> list[Start]:
    """Delete a start with all its files, also those of earlier ones of this name. It is not found any more at once.

    Args:
        store: Object store.
        name: Name of the start.
        base: Base model, as the start names it. The start is deleted for all revisions of it.

    Returns:
        What was deleted.

    Raises:
        NotFound: There is no such start.
        StoreUnavailable: The object store failed.
    """
    check_name(name, "start")
    found = [start for start in list_starts(store) if (start.name, start.base) == (name, base)]
    if not found:
        raise NotFound(f"base model {base} has no start {name!r}: looper starts list")
    for start in found:
        # The newest pointer goes last, so that no older one counts meanwhile.
        for number in sorted(_list_numbers(store, start.base_revision, name)):
            store.delete(keys.start_pointer(start.base_revision, name, number))
        store.delete(keys.start(start.base_revision, name))
    return found


def _load(store: ObjectStore, revision: str, name: str) -> Start | None:
    """Return a start by its newest pointer; None if it has none, or if it is being removed."""
    numbers = _list_numbers(store, revision, name)
    if not numbers:
        return None
    try:
        pointer = _Pointer.model_validate_json(store.get(keys.start_pointer(revision, name, max(numbers))))
        return load_start(store, revision, name, pointer.digest)
    except NotFound:
        return None


def _list_numbers(store: ObjectStore, revision: str, name: str) -> list[int]:
    """Return the numbers of the pointers of a start."""
    found = map(_POINTER.fullmatch, store.list(keys.start(revision, name)))
    return [int(match[1]) for match in found if match]


def _describe_missing(name: str, base: str, revision: str | None, found: Sequence[Start]) -> str:
    of_base = [start for start in found if start.base == base]
    if revision is not None and of_base:
        return (
            f"start {name!r} was made for revision {of_base[0].base_revision} of base model {base}, which is at "
            f"revision {revision} now"
        )
    return f"base model {base} has no start {name!r}"


def _way_out(name: str, base: str) -> str:
    return f"an operator can add it (looper starts add {name} FOLDER --base {base}), or leave start out of the recipe"
