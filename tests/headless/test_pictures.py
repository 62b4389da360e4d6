"""Picture files: written whole or not at all, and named by their content."""

import pytest
from PIL import Image

from ale_edit.headless.pictures import as_png, is_intact, undamaged, upload_name, write_whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_whole(path, b"old")

    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_an_equal_file_stays_untouched(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"same")
    before = path.stat().st_mtime_ns
    write_whole(path, b"same")
    assert path.stat().st_mtime_ns == before


def test_uploads_are_named_by_their_content():
    names = [upload_name(Image.new("RGB", (4, 4), c)) for c in ("red", "red", "blue")]
    assert names[0] == names[1] != names[2]
    assert upload_name(Image.new("RGB", (2, 8), "red")) != names[0]


def test_a_damaged_picture_is_never_taken_for_one():
    picture = Image.effect_noise((32, 32), 90)
    data = as_png(picture)
    assert undamaged(data).tobytes() == picture.tobytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for wrong in (data[: len(data) // 2], bytes(flipped), b"", b"<html>"):
        assert not is_intact(wrong)
        with pytest.raises(ValueError, match=r"^damaged \("):
            undamaged(wrong)
