"""One process at a time writes to a folder, and a killed one leaves no lock behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from ale_edit.headless.lock import FILE, FolderInUse, alone_in

ROOT = Path(__file__).resolve().parents[2]
HOLDING = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lock import alone_in
with alone_in(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process is writing to, and that process."""
    folder = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(ROOT / "headless"), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield folder, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_that_another_process_writes_to_is_refused(held):
    folder, _ = held
    told = "Another process is writing to .*out.*another --out"
    with pytest.raises(FolderInUse, match=told), alone_in(folder):
        pass
    assert (folder / FILE).exists()


def test_a_killed_process_holds_nothing(held):
    folder, process = held
    process.kill()
    process.wait()
    with alone_in(folder):
        pass


def test_nothing_is_left_behind(tmp_path):
    with alone_in(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / FILE).exists()
    assert not (tmp_path / "a" / "b").exists()
    with alone_in(tmp_path / "a"):
        (tmp_path / "a" / "image.png").write_bytes(b"x")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["image.png"]


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), alone_in(tmp_path / "out"):
        raise RuntimeError
    with alone_in(tmp_path / "out"):
        pass


def test_many_that_come_and_go_are_never_in_at_once(tmp_path):
    """A lock file that was just removed by another must not count."""
    code = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lock import FolderInUse, alone_in
folder, mine = Path(sys.argv[2]), Path(sys.argv[2]) / "mine"
end, times = time.monotonic() + 2, 0
while time.monotonic() < end:
    try:
        with alone_in(folder):
            mine.touch(exist_ok=False)
            mine.unlink()
            times += 1
    except FolderInUse:
        pass
print(times)
"""
    command = [sys.executable, "-c", code, str(ROOT / "headless"), str(tmp_path / "out")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        told, errors = process.communicate(timeout=60)
        assert not errors and int(told) > 0
