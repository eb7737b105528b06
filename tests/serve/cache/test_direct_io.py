"""Files past the page cache, on this machine's file system and on one in memory."""

from pathlib import Path

import pytest

from looper.serve.cache import direct_io as direct


@pytest.mark.parametrize("size", [0, 1, direct.BLOCK - 1, direct.BLOCK, 3 * direct.BLOCK + 7, 3_000_001])
@pytest.mark.parametrize("folder", [None, "/dev/shm"])
def test_what_was_written_is_read(tmp_path: Path, size: int, folder: str | None) -> None:
    if folder and not Path(folder).exists():
        pytest.skip("no file system in memory")
    file = Path(folder or tmp_path) / f"{tmp_path.name}-{size}"
    content = bytes(number * 7 % 251 for number in range(size))
    try:
        direct.write(file, content)
        assert file.read_bytes() == content
        read = direct.read(file)
        assert read.tobytes() == content
        assert read.ctypes.data % direct.BLOCK == 0 or not size
    finally:
        file.unlink()


def test_a_full_or_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        direct.write(tmp_path / "missing" / "file", b"content")
    with pytest.raises(OSError, match="No space left"):
        direct.write(Path("/dev/full"), b"content")
