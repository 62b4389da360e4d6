"""The command line of dev.py."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ale_edit.devtools.commands import parser
from ale_edit.devtools.folders import ROOT
from ale_edit.tests.devtools.fakes import make_comfyui, make_set


def run_dev(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "dev.py"), *argv],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
    )


def test_errors_are_one_line_without_a_traceback(tmp_path):
    done = run_dev("serve", "--comfyui", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("dev.py: ") and "not a ComfyUI folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_an_error_before_any_set_up(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_dev("serve", "--port", port, ALE_EDIT_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert f"Port {port} cannot be used" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_an_unknown_benchmark_is_an_error_that_names_the_known():
    done = run_dev("bench", "no-such")
    assert done.returncode == 2
    known = ("scenes", "speed", "inversions", "learned-words", "dataset", "run", "demo", "tables")
    assert all(name in done.stderr for name in known)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["demo", "--image", "none.png", "--edit", "a -> b", "--mask", "m.png"], "There is no fil"),
        (["demo", "--image", "none.png", "--edit", "a to b", "--mask", "m.png"], "not of the form"),
        (["demo", "--edit", "a -> b"], "go with --image"),
        (["demo", "--seeed", "1"], "unrecognized arguments: --seeed 1"),
        (["demo", "--server", "127.0.0.1:8188"], "No ComfyUI answers at 127.0.0.1:8188"),
        (["demo", "--server", "http://127.0.0.1:1/"], "No ComfyUI answers at http://127.0.0.1:1/"),
        (["bench", "scenes", "--count", "0"], "'0' is not a whole number from 1 on"),
        (["bench", "scenes", "--server=http://127.0.0.1:1"], "No ComfyUI answers"),
        (["bench", "demo", "--full", "--edits", "9"], "--full means all edits"),
        (["bench", "demo", "--lpips", "none.pth"], "There is no file none.pth (--lpips)"),
        (["bench", "tables", "--server=http://127.0.0.1:1"], "No ComfyUI answers"),
        (["bench", "run"], "the following arguments are required: DATASET"),
        (["bench", "run", "set", "--clip", "none"], "--clip none is not a CLIP model of trans"),
        (["bench", "run", "set", "--dask", "tcp://h:1"], "--dask needs --server"),
        (["bench", "run", "set", "--set", "Guider=4"], "not of the form NODE.INPUT=VALUE"),
        (["bench", "run", "set", *["--server=http://h:1"] * 2], "http://h:1 is given twice"),
        (
            ["bench", "run", "set", "--server=http://127.0.0.1:1", "--server=http://127.0.0.1:2"],
            "No ComfyUI answers at http://127.0.0.1:1, http://127.0.0.1:2. Start it",
        ),
        (["bench", "run", "photos"], "There is no data set photos/dataset.json. Give the place"),
        (["bench", "dataset"], "the following arguments are required: KIND"),
        (["bench", "dataset", "pie", "none.json", "--out", "x"], "There is no file none.json"),
        (["bench", "dataset", "ale", "none", "--out", "x"], "There is no folder none. Give the"),
    ],
)
def test_wrong_arguments_of_a_job_are_errors_before_any_set_up(
    tmp_path, monkeypatch, argv, expected
):
    monkeypatch.chdir(tmp_path)
    make_set(Path("set"))
    (tmp_path / "file").write_text("")  # no set-up can begin there
    done = run_dev(*argv, ALE_EDIT_CACHE=str(tmp_path / "file" / "cache"), COMFYUI_PATH="")
    assert done.returncode in (1, 2)
    assert expected in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["demo"], "--image --edit --mask --checkpoint --server --out --seed --port --comfyui"),
        (["bench", "scenes"], "--first --count --server --out --comfyui"),
        (["bench", "demo"], "--full --edits --methods --set --score-only --server --comfyui"),
        (["bench", "tables"], "--only --write --edits --score-only --server --comfyui"),
        (["bench", "run"], "DATASET --methods --checkpoint --dask --clip --lpips --dino --server"),
        (["bench", "dataset"], "ale pie --comfyui"),
        (["bench", "dataset", "pie"], "MAPPING --images --types --out"),
    ],
)
def test_help_of_a_job_needs_the_standard_library_alone(tmp_path, argv, options):
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "dev.py"), *argv, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "ALE_EDIT_CACHE": str(tmp_path / "cache"), "COMFYUI_PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in options.split())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "argv", [["bench", "--comfyui", "C", "scenes"], ["bench", "scenes", "--comfyui", "C"]]
)
def test_the_comfyui_of_a_benchmark_may_stand_before_or_after_its_name(argv):
    args, rest = parser().parse_known_args(argv)
    assert (args.name, args.comfyui, rest) == ("scenes", "C", [])
    assert parser().parse_args(["bench", "scenes"]).comfyui is None


def test_further_options_pass_through_in_order():
    argv = ["test", "-k", "name", "--comfyui", "C", "tests/test_house.py", "-x", "--co"]
    args, rest = parser().parse_known_args(argv)
    assert args.comfyui == "C"
    assert rest == ["-k", "name", "tests/test_house.py", "-x", "--co"]


def test_dev_py_needs_the_standard_library_alone():
    code = f"import runpy; runpy.run_path({str(ROOT / 'dev.py')!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def heed_ctrl_c() -> None:
    """A script's background job inherits SIGINT as ignored; the process under test must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_its_server_when_it_is_stopped(tmp_path, number):
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    command = [sys.executable, str(ROOT / "dev.py"), "serve", "--no-browser"]
    environ = {**os.environ, "ALE_EDIT_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "--comfyui", str(comfyui)],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
        preexec_fn=heed_ctrl_c,
    ) as serve:
        assert serve.stdout is not None
        line = next(line for line in serve.stdout if "http://" in line)
        port = int(line.split("http://127.0.0.1:")[1].split()[0])
        with socket.create_connection(("127.0.0.1", port)):
            pass
        serve.send_signal(number)
        try:
            code = serve.wait(timeout=30)
        finally:
            serve.terminate()
        assert code in (130, 128 + number)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return
        time.sleep(0.1)
    pytest.fail("the server still answers")
