"""The process that reads one uploaded file. ``uploads`` starts it for each file, and nothing else runs in it.

It gets three open files and no secrets: no address of the catalog or the store, and no environment. Whatever a file
makes it do, it can only take its own limits of memory and time, or die. It prints one line of JSON.
"""

import errno
import gc
import os
import resource
import signal
import sys
from importlib.abc import MetaPathFinder
from typing import Final

import orjson
from typing_extensions import override

from looper.platform.domain.errors import InvalidInput
from looper.platform.trajectories.readers import select_readers
from looper.platform.trajectories.reading import EpisodeCounts, detect_format, parse_companions, unknown_format
from looper.platform.trajectories.report import FileReport
from looper.platform.trajectories.table import write_parquet

NICENESS: Final = 10
"""How much the process gives way to the gateway and to engines on the same cores."""

OUT_OF_MEMORY_STATUS: Final = 80
"""Exit status of the process when the file needs more memory than it may take, or makes a larger batch."""

DISK_FULL_STATUS: Final = 81
"""Exit status of the process when the disk has no space for the batch."""


def read_upload(
    name: str, format: str, source_fd: int, target_fd: int, companions_fd: int, *, is_named: bool
) -> FileReport:
    """Read a file and write its trajectories as Parquet.

    Args:
        name: Name of the file. Its suffix says whether it is one document or has one per line.
        format: Name of the format; ``auto`` detects it.
        source_fd: Descriptor of the file, open for reading.
        target_fd: Descriptor of the Parquet file, open for writing.
        companions_fd: Descriptor of the companion files, open for reading: one JSON object with their text by suffix.
        is_named: Whether a file without trajectories is an error. Otherwise it is reported.

    Returns:
        The report.

    Raises:
        InvalidInput: The file has no known format.
    """
    with open(source_fd, "rb") as source, open(target_fd, "wb") as target, open(companions_fd, "rb") as companions:
        texts: dict[str, str] = orjson.loads(companions.read())
        beside = parse_companions(name, {suffix: text.encode() for suffix, text in texts.items()})
        file = detect_format(name, source, select_readers(format), beside)
        counts = EpisodeCounts(name)
        if file is None:
            if is_named:
                raise unknown_format(name)
            return counts.report(None)
        write_parquet(counts.filter_kept(file), target)
        return counts.report(file)


class _WithoutPandas(MetaPathFinder):
    """Keeps pyarrow from importing pandas to recognize its types: the import takes longer than everything else here."""

    @override
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ImportError("pandas is not imported here")


def main() -> None:
    """Read the file that the command line names, within the limits that it gives."""
    name, format, is_named, *numbers = sys.argv[1:]
    source_fd, target_fd, companions_fd, max_memory, max_bytes, max_cpu_s, timeout_s = map(int, numbers)
    resource.setrlimit(resource.RLIMIT_DATA, (max_memory, max_memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (max_cpu_s, max_cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(timeout_s)  # It ends by itself, even if the gateway that started it has died.
    os.nice(NICENESS)
    gc.disable()  # It would look at each of millions of values again and again, and nothing here makes cycles.
    sys.meta_path.insert(0, _WithoutPandas())
    answer: dict[str, object]
    try:
        try:
            report = read_upload(name, format, source_fd, target_fd, companions_fd, is_named=is_named == "named")
            answer = {"report": report.model_dump()}
        except InvalidInput as error:
            answer = {"refusal": str(error)}
        # The gateway's file for it is on the same disk. Unflushed, a full disk would be found only when Python ends.
        sys.stdout.buffer.write(orjson.dumps(answer))
        sys.stdout.buffer.flush()
    except MemoryError:  # pyarrow's is one, too
        os._exit(OUT_OF_MEMORY_STATUS)
    except OSError as error:
        if error.errno == errno.EFBIG:
            os._exit(OUT_OF_MEMORY_STATUS)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            os._exit(DISK_FULL_STATUS)
        raise


if __name__ == "__main__":
    main()
