import json
import os
import shutil
import stat

import pytest
import torch

from ale_edit.demo.weights import (
    FOLDER,
    PARTS,
    TABLE,
    read_weights,
    write_weights,
)

pytestmark = pytest.mark.comfy


@pytest.fixture
def folder(tmp_path):
    write_weights("text", {"a": torch.arange(6.0).view(2, 3), "ids": torch.tensor([3])}, tmp_path)
    return tmp_path


def test_shipped_files_are_the_listed_ones_and_small():
    listed = json.loads((FOLDER / TABLE).read_text(encoding="utf-8"))
    parts = {name.removesuffix(".safetensors") for name in listed}
    assert parts == set(PARTS)
    for part in parts:
        assert read_weights(part)
    assert max(entry["bytes"] for entry in listed.values()) <= 16 * 2**20
    assert sum(entry["bytes"] for entry in listed.values()) <= 40 * 2**20


def test_what_was_written_is_read_back(folder):
    tensors = read_weights("text", folder)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert tensors["a"].dtype == torch.float32 and tensors["ids"].dtype == torch.int64
    assert not list(folder.glob("*.part"))


@pytest.mark.skipif(os.name == "nt", reason="needs file permissions")
def test_written_files_have_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_weights("text", {"a": torch.zeros(2)}, tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"text.safetensors": 0o640, TABLE: 0o640}


def test_a_missing_file_is_named_with_the_cure(folder):
    (folder / "text.safetensors").unlink()
    with pytest.raises(ValueError, match=r"text.safetensors is missing. Install .* train-demo"):
        read_weights("text", folder)


def test_a_truncated_file_is_named(folder):
    path = folder / "text.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"text.safetensors has \d+ bytes, not \d+"):
        read_weights("text", folder)


def test_a_changed_file_is_named(folder):
    path = folder / "text.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="text.safetensors is not the listed one"):
        read_weights("text", folder)


def test_a_file_that_nobody_listed_is_refused(folder):
    shutil.copy(folder / "text.safetensors", folder / "judge.safetensors")
    with pytest.raises(ValueError, match="judge.safetensors is not listed"):
        read_weights("judge", folder)


def test_a_damaged_table_is_named(folder):
    (folder / TABLE).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="weights.json cannot be read"):
        read_weights("text", folder)
