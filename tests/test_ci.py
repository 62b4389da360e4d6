""".ci/run on machines with and without a Chromium; apt-get, id and python3 are played."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(os.name == "nt" or BASH is None, reason="needs bash")

PYTHON = """#!/bin/bash
if [ "$1" = dev.py ]; then echo "$@" >> calls; exit 5; fi
[ -e "$(dirname "$0")/chromium" ]
"""
APT = """#!/bin/bash
echo "apt-get $@" >> calls
[ "$1" = install ] && [ -z "$FAILS" ] && touch "$(dirname "$0")/chromium"
[ "$1" = update ] || [ -z "$FAILS" ]
"""
INSTALLED = ["apt-get update -qq", "apt-get install -qq -y chromium"]
TESTS = "dev.py test --ci -x"


@pytest.mark.parametrize(
    ("user", "present", "fails", "calls", "said"),
    [
        (0, True, "", [TESTS], ""),
        (0, False, "", [*INSTALLED, TESTS], ""),
        (0, False, "1", 3 * INSTALLED, "apt-get could not install chromium"),
        (7, False, "", [TESTS], "the browser tests will be skipped"),
    ],
    ids=["there", "installed", "cannot be installed", "not root"],
)
def test_ci_runs_the_tests_with_a_chromium_where_it_can_install_one(
    tmp_path, user, present, fails, calls, said
):
    assert BASH is not None
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    played = {"python3": PYTHON, "apt-get": APT, "id": f"#!/bin/bash\necho {user}\n"}
    for name, text in played.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name in ("bash", "dirname", "touch"):
        (programs / name).symlink_to(shutil.which(name) or "")
    if present:
        (programs / "chromium").touch()
    done = subprocess.run(
        [BASH, str(tmp_path / ".ci" / "run"), "-x"],
        env={"PATH": str(programs), "FAILS": fails},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (5 if TESTS in calls else 1), done.stderr  # 5: that of the tests
    assert (tmp_path / "calls").read_text().splitlines() == calls
    assert said in done.stdout and len(done.stdout.splitlines()) == bool(said)


def test_ci_finds_the_chromium_that_the_browser_tests_find(tmp_path):
    program = tmp_path / "chromium"
    program.write_text("")
    program.chmod(0o755)
    script = str(ROOT / "tests" / "browser" / "chromium.py")
    for chosen, code in ((str(program), 0), (str(tmp_path / "none"), 1)):
        done = subprocess.run(
            [shutil.which("python3") or "python3", "-S", "-I", script],
            env={**os.environ, "ALE_EDIT_CHROMIUM": chosen},
        )
        assert done.returncode == code
