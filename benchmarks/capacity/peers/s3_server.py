"""A read-only S3 server over folders: the object store of all peers, on loopback, for this benchmark only.

S3 servers for tests keep objects in memory, where thousands of adapters do not fit; a folder can have them as links.
``processes`` runs ``python -m looper.benchmarks.capacity.peers.s3_server FOLDER PORT``, which serves each folder in
``FOLDER`` as a bucket.
"""

import sys
from pathlib import Path
from xml.sax.saxutils import escape

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route


class _Object(FileResponse):
    """A file, with ranges, an ETag and HEAD. Large chunks keep this server from using the cores of the peers."""

    chunk_size = 1 << 20  # bytes


def create_app(folder: Path) -> Starlette:
    """Create the server.

    Args:
        folder: Parent of the buckets' folders.

    Returns:
        An ASGI app.
    """
    root = folder.resolve()

    async def bucket(request: Request) -> Response:
        return _listing(root / request.path_params["bucket"], request)

    async def key(request: Request) -> Response:
        file = (root / request.path_params["bucket"] / request.path_params["key"]).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            return _error(404, "NoSuchKey")
        return _Object(file)

    return Starlette(
        routes=[
            Route("/{bucket}", bucket, methods=["GET", "HEAD"]),
            Route("/{bucket}/", bucket, methods=["GET", "HEAD"]),
            Route("/{bucket}/{key:path}", key, methods=["GET", "HEAD"]),
        ]
    )


def _listing(folder: Path, request: Request) -> Response:
    """Answer ListObjectsV2 in one page, which is enough because peers list one adapter at a time."""
    if not folder.is_dir():
        return _error(404, "NoSuchBucket")
    prefix, delimiter = request.query_params.get("prefix", ""), request.query_params.get("delimiter", "")
    parent = folder / prefix.rpartition("/")[0]
    contents, common_prefixes = [], set()
    for path in sorted(parent.rglob("*") if not delimiter else parent.glob("*")) if parent.is_dir() else []:
        key = path.relative_to(folder).as_posix()
        if not key.startswith(prefix):
            continue
        if path.is_dir():
            common_prefixes.add(f"{key}/")
        else:
            contents.append((key, path.stat().st_size))
    rows = [
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;0&quot;</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
        for key, size in contents
    ]
    if delimiter:
        rows += [
            f"<CommonPrefixes><Prefix>{escape(common)}</Prefix></CommonPrefixes>" for common in sorted(common_prefixes)
        ]
    head = f"<Name>{escape(folder.name)}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(rows)}</KeyCount>"
    xmlns = "http://s3.amazonaws.com/doc/2006-03-01/"
    body = f'<ListBucketResult xmlns="{xmlns}">{head}<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>'
    return Response(f"{body}{''.join(rows)}</ListBucketResult>", media_type="application/xml")


def _error(status: int, code: str) -> Response:
    return Response(f"<Error><Code>{code}</Code></Error>", status, media_type="application/xml")


def main() -> None:
    """Serve until the process is ended."""
    folder, port = sys.argv[1:]
    uvicorn.run(create_app(Path(folder)), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
