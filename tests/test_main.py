"""sam-engine: one name for every program, quick to list them."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sam_engine.__main__ import PIPELINES, TOOLS, called, main

ROOT = Path(__file__).parents[1]
PROGRAMS = PIPELINES | TOOLS


def sam_engine(folder, *arguments):
    """Run ``python -m sam_engine`` in a folder that is not the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "sam_engine", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_list_names_every_program(capsys):
    """--help is exit 0, on stdout."""
    assert main(["--help"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(PROGRAMS)


def test_no_program_is_a_usage_error(capsys):
    """The list goes to stderr, exit 2."""
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: sam-engine PROGRAM")


def test_an_unknown_program_is_one_line_with_a_guess(capsys):
    """Exit 2."""
    assert main(["anotate", "input=photos"]) == 2
    assert capsys.readouterr().err == "error: there is no program 'anotate'; did you mean annotate?\n"


def test_the_version_is_that_of_the_package(capsys):
    """As pip knows it."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sam-engine {version('sam-engine')}\n"


def test_the_list_and_usage_errors_import_neither_torch_nor_hydra():
    """Nothing is imported before a program is chosen."""
    code = (
        "import sys\n"
        "from sam_engine.__main__ import main\n"
        "main(['--help']); main(['--version']); main(['nope'])\n"
        "sys.exit(', '.join({'torch', 'hydra', 'ray', 'numpy', 'pyarrow'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["loop", "verify", "bench"])
def test_help_of_a_program_says_how_it_was_called(name, tmp_path):
    """From any folder, also one with rooms of the same names."""
    for room in ("pipelines", "tools"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise ImportError('of the working directory')")
    result = sam_engine(tmp_path, name, "--help")

    assert (result.returncode, result.stderr) == (0, "")
    assert f"sage: sam-engine {name} " in result.stdout
    assert "python -m pipelines" not in result.stdout


def test_every_program_is_there():
    """Pipelines have command_line(), tools have main()."""
    for package, entry, programs in (("pipelines", "command_line", PIPELINES), ("tools", "main", TOOLS)):
        for module, _ in programs.values():
            source = (ROOT / package / (module.replace(".", "/") + ".py")).read_text()

            assert f"\ndef {entry}(" in source, module


def test_every_command_line_has_a_name():
    """Whatever runs with ``python -m`` runs as sam-engine, but for the innards of the benchmark."""
    named = {
        f"{package}.{module}"
        for package, programs in (("pipelines", PIPELINES), ("tools", TOOLS))
        for module, _ in programs.values()
    }
    runnable = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("pipelines", "tools")
        for path in (ROOT / package).rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    }

    assert runnable - named == {"tools.bench.__main__", "tools.bench.job"}


def test_a_module_is_called_by_its_name():
    """Where sam-engine did not start it."""
    assert called("tools.verify") == "python -m tools.verify"
