"""python -m tools.doctor: what is here and what is missing."""

import dataclasses
import importlib.metadata
import json

import pytest

from sam_engine import catalogue
from tools import doctor
from tools.doctor import BROKEN, MISSING, OK, examine, main


def found(tmp_path):
    """What the doctor says, by subject."""
    return {finding.subject: finding for finding in examine(tmp_path)}


def test_this_machine_can_work(tmp_path, capsys):
    """Everything that the package asks for is there, so the exit code is 0; JSON says the same."""
    assert main(["--output", str(tmp_path), "--json"]) == 0

    findings = json.loads(capsys.readouterr().out)
    states = {finding["subject"]: finding["state"] for finding in findings}
    assert {states[name] for name in ("torch", "JPEG", "PNG", "disk", "weights of tiny", "pyarrow")} == {OK}


@pytest.mark.parametrize(("package", "state"), [("numpy", BROKEN), ("matplotlib", MISSING)])
def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch, package, state):
    """What everything needs breaks, what one program needs is missing."""
    real = importlib.metadata.version

    def version(name):
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    finding = found(tmp_path)[package]

    assert finding.state == state
    assert finding.says.endswith(f"pip install {package}")


def test_weights_on_the_disk_are_known_by_their_size(tmp_path, monkeypatch):
    """There and whole, there and cut off, or not there and where from; nothing is downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "cache_dir", lambda: tmp_path)
    release = dataclasses.replace(catalogue.MODELS["vit_b"].release, num_bytes=3)
    model = dataclasses.replace(catalogue.MODELS["vit_b"], release=release)
    monkeypatch.setattr(doctor, "MODELS", {"vit_b": model})
    states = [found(tmp_path)["weights of vit_b"].state]
    for data in (b"ab", b"abc"):
        (tmp_path / release.file_name).write_bytes(data)
        states.append(found(tmp_path)["weights of vit_b"].state)

    assert states == [MISSING, BROKEN, OK]


def test_a_full_disk_is_broken(tmp_path, monkeypatch):
    """A run would stop there; exit code 1."""
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 2**80)

    assert found(tmp_path)["disk"].state == BROKEN
    assert main(["--output", str(tmp_path / "not" / "yet")]) == 1
