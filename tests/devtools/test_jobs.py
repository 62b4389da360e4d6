"""Jobs over HTTP: which Python and which server they get, and what they leave behind."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ale_edit.bench.options import SERVER_FAILED
from ale_edit.devtools import commands, jobs
from ale_edit.devtools.commands import main
from ale_edit.devtools.folders import ROOT
from ale_edit.devtools.host import Host
from ale_edit.devtools.jobs import run_served
from ale_edit.devtools.messages import DevError, ServerFailed
from ale_edit.devtools.server import answers
from ale_edit.tests.devtools.fakes import make_comfyui, make_set


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Runs run_served with a fake ComfyUI and a job of this exit code; gives what was left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(jobs, "device_options", lambda host: ["--cpu"])
    host = Host(make_comfyui(tmp_path / "ComfyUI"), Path(sys.executable))

    def run(outcome, port: int | None = None) -> tuple[object, list[Path]]:
        def module(python, environ, name, argv) -> int:
            assert environ["COMFYUI_PATH"] == str(host.comfyui)
            url = argv[argv.index("--server") + 1]
            if os.environ.get("FAKE_MODE") == "dies later":
                while answers(url):
                    time.sleep(0.05)
                time.sleep(0.5)  # its port is closed a moment before it has ended
            else:
                assert answers(url)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(jobs, "run_module", module)
        try:
            result: object = run_served(host, "bench.main_job", [], port)
        except BaseException as error:
            result = error
        return result, list(temporary.iterdir())

    return run


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_and_an_error_of_the_person_leave_nothing_behind(job, capsys, code):
    assert job(code) == (code, [])
    assert "log" not in capsys.readouterr().out


def test_a_job_that_is_stopped_leaves_nothing_behind(job):
    stop = KeyboardInterrupt()
    assert job(stop) == (stop, [])


def test_a_port_that_was_taken_meanwhile_leaves_nothing_behind(job):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result, left = job(0, taken.getsockname()[1])
    assert isinstance(result, DevError) and not left


def test_the_log_is_kept_and_named_when_the_job_says_the_server_failed(job, capsys):
    code, (base,) = job(SERVER_FAILED)
    assert code != 0
    (log,) = base.glob("server-*.log")
    assert f"The server's log: {log}" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["dies", "dies later"])
def test_the_log_of_a_server_that_died_is_kept_and_named(job, monkeypatch, mode):
    monkeypatch.setenv("FAKE_MODE", mode)
    error, (base,) = job(1)
    (log,) = base.glob("server-*.log")
    assert isinstance(error, ServerFailed) and str(log) in str(error)


OWN = ["--image", "i.png", "--edit", "a -> b", "--mask", "m.png"]


@pytest.fixture
def started(tmp_path, monkeypatch):
    """What command_demo ran, (python, COMFYUI_PATH, module) each; only main_job answers 0."""
    for name in ("i.png", "m.png"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    ran: list[tuple[Path, str | None, str]] = []

    def run_module(python, environ, module, argv) -> int:
        ran.append((python, environ.get("COMFYUI_PATH"), module))
        return 0 if module == "bench.main_job" else 1

    monkeypatch.setattr(jobs, "answers", lambda url, timeout_s=5: True)
    for module in (commands, jobs):
        monkeypatch.setattr(module, "run_module", run_module)
        monkeypatch.setattr(module, "find_host", lambda path: Host(Path("comfyui"), Path("its")))
    monkeypatch.setattr(jobs, "missing_modules", lambda python, names: [])
    return ran


@pytest.mark.parametrize("own", [OWN, []], ids=["own image", "demo scene"])
def test_a_running_comfyui_needs_no_other_and_the_current_python(started, capsys, own):
    assert main(["demo", "--server", "http://h:1", *own]) == 0
    assert started == [(Path(sys.executable), None, "bench.main_job")]
    assert f"The job is run by {sys.executable}." in capsys.readouterr().out


def test_a_python_that_cannot_run_the_job_is_replaced_and_that_is_said(
    started, monkeypatch, capsys
):
    monkeypatch.setattr(jobs, "missing_modules", lambda python, names: ["torch", "PIL"])
    assert main(["demo", "--server", "http://h:1", *OWN]) == 0
    assert started == [(Path("its"), "comfyui", "bench.main_job")]
    expected = f"The job is run by its: {sys.executable} has no torch, PIL."
    assert expected in capsys.readouterr().out


def test_with_a_comfyui_its_python_runs_the_job(started, capsys):
    assert main(["demo", "--comfyui", "mine", "--server", "http://h:1", *OWN]) == 0
    assert started == [(Path("its"), "comfyui", "bench.main_job")]
    assert "The job is run by its: it is that of --comfyui." in capsys.readouterr().out


def test_pictures_are_checked_before_a_server_is_started(started):
    assert main(["demo", *OWN]) == 1
    assert started == [(Path("its"), None, "bench.own_input")]


@pytest.mark.parametrize("job", [["run", "set"], ["demo"], ["tables"]])
@pytest.mark.parametrize("code", [1, 0])
def test_a_bench_is_checked_before_a_server_is_started(started, monkeypatch, job, code):
    make_set(Path("set"))
    steps: list[str] = []

    def run_module(python, environ, module, argv) -> int:
        steps.append(argv[-1])
        return code

    def run_served(host, module, argv) -> int:
        steps.append("served")
        return 7

    monkeypatch.setattr(commands, "run_module", run_module)
    monkeypatch.setattr(commands, "run_served", run_served)
    assert main(["bench", *job]) == (1 if code else 7)
    assert steps == ["--check-only"] + ([] if code else ["served"])


SLOW_TO_END = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[-1], "ended").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[-1], "ready").touch()
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
def test_a_job_gets_the_time_to_take_its_work_out_of_the_queue(tmp_path):
    (tmp_path / "dev.py").write_text(SLOW_TO_END)
    code = f"""
import runpy, signal, sys
from pathlib import Path
door = runpy.run_path({str(ROOT / "dev.py")!r})
signal.signal(signal.SIGTERM, door["stop_on_signal"])
door["import_pack"](None)
from ale_edit.devtools import jobs
jobs.ROOT = Path({str(tmp_path)!r})
jobs.run_module(Path(sys.executable), None, "job", [{str(tmp_path)!r}])
"""
    job = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 143
    assert (tmp_path / "ended").exists()


def test_with_dask_this_machine_need_not_reach_the_servers(started, monkeypatch):
    monkeypatch.setattr(jobs, "answers", lambda url, timeout_s=5: pytest.fail("asked"))
    asked: list[str] = []
    monkeypatch.setattr(jobs, "missing_modules", lambda python, names: asked.extend(names) or [])
    make_set(Path("set"))
    main(["bench", "run", "set", "--dask", "tcp://h:1", "--server", "http://h:2"])
    assert started == [(Path(sys.executable), None, "bench.runner")]
    assert "distributed" in asked


def test_a_data_set_is_made_without_any_comfyui(started, tmp_path):
    main(["bench", "dataset", "ale", str(tmp_path), "--out", "new"])
    assert started == [(Path(sys.executable), None, "bench.make_dataset")]
