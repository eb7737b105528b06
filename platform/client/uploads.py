"""Methods of the Python client that upload trajectories: small files whole, larger ones in parts.

An upload in parts goes on where it stopped, after a lost connection as well as after the end of the program: the server
finds it by the file's digest, and says which parts have arrived.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from looper.platform.api.upload_models import PART_BYTES, UploadInfo
from looper.platform.client.http_session import HttpSession
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import check_name
from looper.platform.trajectories.report import IngestReport

UPLOAD_TIMEOUT_S = 1800.0
"""Time to wait for the report of an upload, in seconds: the server reads a few files at a time."""

UPLOAD_RETRIES = 6
"""How often a request with a part of a file is sent again at most. The pauses before them take half a minute in all."""

_READ_BYTES = 2**20

OnProgress = Callable[[float], None]
"""Called with the share of the file, from 0 to 1, that the server has."""


class _FileContent:
    """Content of a file, which is read anew each time it is sent."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while part := file.read(_READ_BYTES):
                yield part


class UploadMethods(HttpSession):
    """Uploads. ``Client`` has them."""

    def ingest(
        self,
        instance: str,
        path: str | Path,
        *,
        format: str = "auto",
        name: str | None = None,
        is_named: bool = True,
        companions: Mapping[str, str] | None = None,
        on_progress: OnProgress = lambda share: None,
    ) -> IngestReport:
        """Upload one file of trajectories. Uploading the same file again changes nothing.

        Args:
            instance: Instance that the trajectories belong to; a new one is created.
            path: The file.
            format: Name of its format; ``auto`` detects it.
            name: Name of the file in the report. None: that of the path.
            is_named: Whether a file without trajectories is an error. Otherwise it is reported.
            companions: Text of the files that belong to it, by suffix, such as ``.report.json``.
            on_progress: Called while a larger file is sent.

        Returns:
            How many trajectories were kept and rejected, and why.
        """
        path, folder = Path(path), f"/instances/{check_name(instance, 'instance')}"
        name = path.name if name is None else name
        if companions or path.stat().st_size > PART_BYTES:
            return self._send_in_parts(folder, path, name, format, is_named, companions or {}, on_progress)
        params: dict[str, str] = {"name": name, "format": format}
        return self._call(
            "POST",
            f"{folder}/trajectories",
            IngestReport,
            idempotent=True,
            params=params if is_named else params | {"is_named": "false"},
            content=_FileContent(path),
            headers={"content-length": str(path.stat().st_size)},
            timeout=self._upload_timeout,
        )

    @property
    def _upload_timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self._http.timeout.connect, read=UPLOAD_TIMEOUT_S)

    def _send_in_parts(
        self,
        folder: str,
        path: Path,
        name: str,
        format: str,
        is_named: bool,
        companions: Mapping[str, str],
        on_progress: OnProgress,
    ) -> IngestReport:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        announced: dict[str, Any] = {"name": name, "format": format, "sha256": sha256, "size": path.stat().st_size}
        end = {"companions": dict(companions), "is_named": is_named}
        try:
            return self._send_parts_and_end(folder, path, announced, end, on_progress)
        except NotFound:
            # The upload has expired or ended between two requests. The server tells if it is something else again.
            return self._send_parts_and_end(folder, path, announced, end, on_progress)

    def _send_parts_and_end(
        self, folder: str, path: Path, announced: dict[str, Any], end: dict[str, Any], on_progress: OnProgress
    ) -> IngestReport:
        retries = max(self._max_retries, UPLOAD_RETRIES) if self._max_retries else 0
        upload = self._call(
            "POST", f"{folder}/uploads", UploadInfo, idempotent=True, max_retries=retries, json=announced
        )
        arrived = set(upload.arrived)
        with path.open("rb") as file:
            for number in range(upload.parts):
                on_progress(len(arrived) / upload.parts)
                if number in arrived:
                    continue
                file.seek(number * upload.part_bytes)
                part = file.read(upload.part_bytes)
                self._send(
                    "PUT",
                    f"{folder}/uploads/{upload.id}/parts/{number}",
                    max_retries=retries,
                    params={"sha256": hashlib.sha256(part).hexdigest()},
                    content=part,
                )
                arrived.add(number)
        on_progress(1.0)
        return self._call(
            "POST",
            f"{folder}/uploads/{upload.id}/end",
            IngestReport,
            idempotent=True,
            max_retries=retries,
            json=end,
            timeout=self._upload_timeout,
        )
