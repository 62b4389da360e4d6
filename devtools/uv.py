"""uv in the place of pip: the same packages from the same indexes, in a third of the time.

uv does not read pip's settings, so they are handed to it. Where pip has a setting that uv has not,
and where uv fails, pip installs.
"""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from pathlib import Path

OPTIONS = {  # of uv, by pip's setting
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
}
VARIABLES = {"cert": ["SSL_CERT_FILE"], "proxy": ["HTTP_PROXY", "HTTPS_PROXY"]}
NEEDLESS = {  # here or at all: they say nothing about where packages are and how they are reached
    *("break-system-packages", "cache-dir", "config-file", "constraint", "default-timeout"),
    *("disable-pip-version-check", "no-cache-dir", "no-color", "no-input"),
    *("prefer-binary", "progress-bar", "quiet", "require-virtualenv", "retries"),
    *("root-user-action", "timeout", "user", "verbose"),
}
SECTIONS = ("global", "install", ":env:")  # of pip's settings: a later one overrides


@dataclass(frozen=True)
class UvSettings:
    options: list[str]
    variables: dict[str, str]


def has_uv(python: Path) -> bool:
    return any((python.parent / name).is_file() for name in ("uv", "uv.exe"))


def pip_settings(python: Path) -> dict[str, str]:
    """What pip's files and variables set for `pip install`."""
    command = [str(python), "-m", "pip", "config", "list"]
    answer = subprocess.run(command, capture_output=True, text=True)
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in answer.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in found:
            found[section][key] = str(ast.literal_eval(value))
    return {key: value for section in SECTIONS for key, value in found[section].items()}


def translate(settings: dict[str, str]) -> UvSettings | None:
    """The same for uv; None where pip has a setting that uv has not."""
    options, variables = ["--index-strategy", "unsafe-best-match"], {}  # as pip chooses
    for key, value in settings.items():
        if key in OPTIONS:
            options += [word for part in value.split() for word in (OPTIONS[key], part)]
        elif key in VARIABLES:
            variables.update(dict.fromkeys(VARIABLES[key], value))
        elif key not in NEEDLESS:
            return None
    return UvSettings(options, variables)
