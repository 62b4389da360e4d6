"""What the Comfy Registry asks of a pack, as far as it is documented or seen.

pyproject.toml: docs.comfy.org/registry/specifications, and the parser of comfy-cli. Files:
docs.comfy.org/registry/standards, and the findings that the Registry's scan gave to other packs. It
searches each file of the package for strings, so ours does, too, in comments and prose as well.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
ACCELERATORS = (
    *("GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "GPU :: Apple Metal"),
    "NPU :: Huawei Ascend",
)
RANGE = r"(?:(?:==|>=|<=|!=|~=|>|<|<>|=)\s*)?\d+\.\d+\.\d+(?:-[a-zA-Z0-9]+)?"
RANGES = re.compile(rf"{RANGE}(?:\s*,\s*{RANGE})*")
PYTHONS = re.compile(r"[<>!~=]=?\d+(?:\.\d+)*(?:,\s*[<>!~=]=?\d+(?:\.\d+)*)*")
ADDRESS = re.compile(r"https://[\w.-]+\.\w+/\S+")
PICTURE = re.compile(rf"{ADDRESS.pattern}\.(?:svg|png|jpe?g|gif)")
KEYS = {  # those that are read; another spelling is silently ignored
    *("PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"),
    *("includes", "web", "Models", "version"),
}
FRONT_END = "comfyui-frontend-package"


def missing(config: dict[str, Any]) -> list[str]:
    """The fields that are empty or absent, and that a published pack has."""
    project, comfy = config.get("project", {}), config.get("tool", {}).get("comfy", {})
    urls = project.get("urls", {})
    needed = ("name", "version", "description", "license", "requires-python", "classifiers")
    found = [name for name in needed if not project.get(name)]
    found += [name for name in ("PublisherId", "DisplayName") if not comfy.get(name)]
    linked = ("Repository", "Documentation", "Bug Tracker") if urls.get("Repository") else ()
    found += [name for name in linked or ("Repository",) if not urls.get(name)]
    return found + [n for n in ("Icon", "Banner", "requires-comfyui") if not comfy.get(n)]


def faults(config: dict[str, Any], root: Path) -> Iterator[str]:
    """What is filled in and wrong: "field: what it should be"."""
    project, comfy = config["project"], config["tool"]["comfy"]
    name, licence = project.get("name", ""), project.get("license")
    if not re.fullmatch(r"[a-zA-Z](?:[-_.]?[a-zA-Z0-9])*", name) or len(name) >= 100:
        yield "name: under 100 letters, digits and single - _ . after a letter"
    if "comfyui" in name.lower():
        yield "name: without ComfyUI"
    if not re.fullmatch(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}", project.get("version", "")):
        yield "version: X.Y.Z"
    if not isinstance(licence, dict) or set(licence) not in ({"file"}, {"text"}):
        yield 'license: { file = "LICENSE" } or { text = "NAME" }'
    elif "file" in licence and not (root / licence["file"]).is_file():
        yield "license: a file of the package"
    if not PYTHONS.fullmatch(project.get("requires-python", "")):
        yield "requires-python: a range such as >=3.10"
    yield from _classifier_faults(project.get("classifiers", []))
    yield from _dependency_faults(project.get("dependencies"))
    for key in ("Repository", "Documentation", "Bug Tracker"):
        if (url := project.get("urls", {}).get(key)) and not ADDRESS.fullmatch(url):
            yield f"{key}: an address"
    for key in ("Icon", "Banner"):
        if (url := comfy.get(key)) and not PICTURE.fullmatch(url):
            yield f"{key}: the address of an SVG, PNG, JPG or GIF"
    if (publisher := comfy.get("PublisherId")) and not re.fullmatch(r"[\w-]+", publisher):
        yield "PublisherId: letters, digits, - and _, without @"
    if not RANGES.fullmatch(comfy.get("requires-comfyui", "")):
        yield "requires-comfyui: a range such as >=1.0.0"
    for key in sorted(set(comfy) - KEYS):
        yield f"{key}: no key of [tool.comfy]"


def _classifier_faults(classifiers: list[str]) -> Iterator[str]:
    systems = [c.partition(" :: ")[2] for c in classifiers if c.startswith("Operating System ::")]
    if not systems or not all(system.startswith(SYSTEMS) for system in systems):
        yield "classifiers: known operating systems"
    devices = [c.partition(" :: ")[2] for c in classifiers if c.startswith("Environment ::")]
    if not devices or not set(devices) <= {*ACCELERATORS}:
        yield "classifiers: known accelerators"


def _dependency_faults(dependencies: Any) -> Iterator[str]:
    if not isinstance(dependencies, list):
        yield "dependencies: a list"
        return
    for entry in dependencies:
        if entry.startswith(FRONT_END) and not RANGES.fullmatch(entry.removeprefix(FRONT_END)):
            yield f"dependencies: a range of {FRONT_END}"
        if "://" in entry or "==" in entry:
            yield "dependencies: neither addresses nor one version only"


FORBIDDEN = {  # by what the Registry's rules look for, in Python
    "code from a string": r"(?<![\w.])(?:eval|exec|compile|__import__)\s*\(|\bFunctionType\(",
    "pickles": r"\b(?:pickle|marshal|dill|joblib|shelve)\.|\btorch\.load\(|weights_only=False",
    "programs": r"\bsubprocess\b|\bos\.(?:system|popen|exec\w+|spawn\w+|startfile)\b|\bpty\.",
    "packages": r"\bpip\.main|import_module\(\s*[\"']pip|ensurepip|\bsite\.addsitedir",
    "downloads": r"hf_hub_download|snapshot_download|torch\.hub|urlretrieve|load_file_from_url",
    "decoding": r"\b(?:b64|b32|b16|a85|b85|z85)decode|zlib\.decompress|codecs\.decode|rot13",
    "privileges": r"(?<![\w-])(?:sudo|pkexec|runas|doas)(?![\w-])|\bctypes\b|\bwinreg\b",
}
FORBIDDEN_IN_PROSE_TOO = {
    "network": (
        r"urllib\.request|urlopen|http\.client|\brequests\.\w+\(|\bsocket\.\w|websocket\.\w+\("
        r"|\.(?:connect|bind|listen|send|sendall|sendto|recv|recvfrom)\s*\(|ClientSession"
        r"|\b(?:httpx|ftplib|smtplib|paramiko|telnetlib)\b"
    ),
    "environment": r"os\.environ|os\.getenv|\bgetenv\(|os\.putenv",
    "encoded data": r"[A-Za-z0-9+/]{200,}|(?:\\x[0-9a-fA-F]{2}){20,}",
}
TEXTS = {".py", ".js", ".md", ".json", ".toml", ".txt", ".svg"}
PICTURES = {".png", ".jpg"}
WEIGHTS = {".safetensors"}


def findings(package: Path) -> set[tuple[str, str]]:
    """(file, what was found) for each file of the package."""
    found = set()
    for file in sorted(package.rglob("*")):
        name = file.relative_to(package).as_posix()
        if file.is_symlink():
            found.add((name, "link"))
        elif file.is_file():
            found |= {(name, what) for what in findings_in(file)}
    return found


def findings_in(file: Path) -> Iterator[str]:
    if file.suffix in TEXTS:
        text = file.read_text(encoding="utf-8")
        rules = FORBIDDEN_IN_PROSE_TOO | (FORBIDDEN if file.suffix == ".py" else {})
        yield from (what for what, rule in rules.items() if re.search(rule, text, re.MULTILINE))
    elif file.suffix not in PICTURES | WEIGHTS and file.name != "LICENSE":
        yield "kind of file"
