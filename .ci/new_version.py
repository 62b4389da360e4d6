"""Decides whether .github/workflows/publish.yml publishes: `python3 .ci/new_version.py`.

It does where pyproject.toml has a PublisherId, names this repository, and has another version than
before the push. The variable HERE is the address of this repository. BEFORE is the commit before
the push, or empty when a person starts the workflow, which needs no other version.
"""

import os
import subprocess
import sys
from pathlib import Path

import tomllib


def version_at(commit: str) -> str | None:
    """The version in an earlier commit; None where there is no such commit or version."""
    done = subprocess.run(["git", "show", f"{commit}:pyproject.toml"], capture_output=True)
    try:
        return tomllib.loads(done.stdout.decode())["project"]["version"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError):
        return None


def why_not(config: dict, here: str, before: str) -> str | None:
    """Why this commit is not published; None where it is."""
    project, version = config["project"], config["project"]["version"]
    repository = project["urls"]["Repository"]
    if not config["tool"]["comfy"]["PublisherId"]:
        return "pyproject.toml has no PublisherId"
    if repository.removesuffix(".git").rstrip("/").lower() != here.lower():
        return f"pyproject.toml names {repository!r}, and this repository is {here!r}"
    if before and version_at(before) == version:
        return f"the version was {version} before, too"
    return None


def main() -> None:
    config = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    reason = why_not(config, os.environ["HERE"], os.environ["BEFORE"])
    print(f"Not published: {reason}." if reason else f"Publish {config['project']['version']}.")
    with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as outputs:
        outputs.write(f"publish={'false' if reason else 'true'}\n")


if __name__ == "__main__":
    sys.exit(main())
