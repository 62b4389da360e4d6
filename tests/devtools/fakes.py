"""What plays ComfyUI, venv and pip in the tests of dev.py: no network, no packages."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

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


def make_set(folder: Path) -> None:
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
