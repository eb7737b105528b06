"""The digest that names an adapter, from the checksums of its files. Publication, engines and clients check it."""

import hashlib
from collections.abc import Mapping
from typing import Final

WEIGHTS_FILE: Final = "adapter_model.safetensors"
CONFIG_FILE: Final = "adapter_config.json"
MANIFEST_FILE: Final = "manifest.json"
FILE_NAMES: Final = (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE)


def digest_of(sums: Mapping[str, str]) -> str:
    """Return the digest of an adapter.

    Args:
        sums: SHA-256 of each file in hexadecimal, by its name.

    Returns:
        SHA-256 of the text that ``sha256sum`` prints for the files, sorted by name.
    """
    return hashlib.sha256("".join(f"{sum}  {name}\n" for name, sum in sorted(sums.items())).encode()).hexdigest()
