"""Direct I/O on this machine's file system and on one in memory, which does not support it."""

from pathlib import Path

import pytest

from looper.serve.cache import direct_io


@pytest.mark.parametrize(
    "size", [0, 1, direct_io.BLOCK_BYTES - 1, direct_io.BLOCK_BYTES, 3 * direct_io.BLOCK_BYTES + 7, 3_000_001]
)
@pytest.mark.parametrize("folder", [None, "/dev/shm"])
def test_a_written_file_is_read_back(tmp_path: Path, size: int, folder: str | None) -> None:
    if folder and not Path(folder).exists():
        pytest.skip("this machine has no file system in memory")
    file = Path(folder or tmp_path) / f"{tmp_path.name}-{size}"
    content = bytes(number * 7 % 251 for number in range(size))
    try:
        direct_io.write(file, content)
        assert file.read_bytes() == content
        read = direct_io.read(file)
        assert read.tobytes() == content
        assert read.ctypes.data % direct_io.BLOCK_BYTES == 0 or not size
    finally:
        file.unlink()


def test_a_full_or_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        direct_io.write(tmp_path / "missing" / "file", b"content")
    with pytest.raises(OSError, match="No space left"):
        direct_io.write(Path("/dev/full"), b"content")
