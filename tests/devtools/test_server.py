"""One server that is always stopped, and whose end is explained."""

import socket
import sys
from pathlib import Path

import pytest

from ale_edit.devtools.folders import ROOT
from ale_edit.devtools.host import Host
from ale_edit.devtools.messages import DevError
from ale_edit.devtools.server import Server, answers, check_port, prepare_base
from ale_edit.tests.devtools.fakes import make_comfyui


@pytest.fixture
def server(tmp_path):
    host = Host(make_comfyui(tmp_path / "ComfyUI"), Path(sys.executable))
    server = Server(host, tmp_path / "base", options=["--cpu"])
    yield server
    server.stop()


def test_the_server_runs_with_the_pack_in_a_base_directory_of_its_own(server):
    before = sorted(server.host.comfyui.rglob("*"))
    with server:
        assert answers(server.url)
        process = server.process
        assert process is not None and process.poll() is None
        assert (server.base / "custom_nodes" / "ale-edit" / "dev.py").samefile(ROOT / "dev.py")
        assert "--cpu" in server.log.read_text()
    assert process.poll() is not None
    assert not answers(server.url)
    assert sorted(server.host.comfyui.rglob("*")) == before


def test_the_server_is_stopped_when_the_job_fails(server):
    with pytest.raises(RuntimeError, match="job"), server:
        raise RuntimeError("job")
    assert server.process.poll() is not None


def test_a_server_that_dies_at_start_shows_the_end_of_its_log(server, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "dies")
    with pytest.raises(DevError, match="ended while it was starting") as caught, server:
        pass
    assert "it cannot find its models" in str(caught.value)
    assert str(server.log) in str(caught.value)


def test_a_server_that_dies_later_is_noticed(server, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "dies later")
    with pytest.raises(DevError, match=r"ended during the job \(exit code 7\)"), server:
        server.process.wait(timeout=10)
        server.check_alive("during the job")


def test_a_server_that_does_not_answer_in_time_is_stopped(server, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "hangs")
    with pytest.raises(DevError, match="did not answer within 1 s"):
        server.start(timeout_s=1)
    assert server.process.poll() is not None


def test_a_taken_port_is_an_error_before_anything_is_started(server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server.port = taken.getsockname()[1]
        with pytest.raises(DevError, match=f"Port {server.port} cannot be used.*--port"):
            server.start()
    assert server.process is None


def test_a_port_that_is_no_port_is_an_error():
    with pytest.raises(DevError, match="Port 70000 cannot be used"):
        check_port(70000)


def test_a_base_directory_can_be_prepared_again(tmp_path):
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    for _ in range(2):
        prepare_base(tmp_path / "base", comfyui / "models")
    assert (tmp_path / "base" / "models").samefile(comfyui / "models")


def test_a_base_directory_follows_models_that_moved_but_not_over_a_persons_folder(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    prepare_base(tmp_path / "base", first)
    prepare_base(tmp_path / "base", second)
    link = tmp_path / "base" / "models"
    assert link.samefile(second) and first.is_dir()
    link.unlink()
    link.mkdir()
    (link / "mine.safetensors").write_text("weights")
    prepare_base(tmp_path / "base", first)
    assert (link / "mine.safetensors").read_text() == "weights"
