"""What all tools have in common at their edges: signals, and how they are started."""

import os
import signal
from pathlib import Path

import pytest

from sam_engine.files import new_file
from tools.command import run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_half_written_file(tmp_path, capsys, number):
    """One line and 130 or 143; the file that was being written is gone."""

    def stopped(_):
        with new_file(tmp_path / "masks.json") as file:
            file.write(b"[")
            os.kill(os.getpid(), number)
        return 0

    assert run(stopped) == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.startswith(f"stopped by {number.name}; nothing half written is left")


def test_an_interrupt_from_within_is_exit_130(capsys):
    """Where a library raises it in place of the signal."""

    def interrupted(_):
        raise KeyboardInterrupt

    assert run(interrupted) == 130
    assert capsys.readouterr().err.startswith("stopped by SIGINT; ")


def test_every_tool_is_started_alike():
    """``python -m tools.x`` hears signals as ``sam-engine x`` does, for both go through `run`."""
    ends = {
        path.relative_to(ROOT).as_posix(): text.partition('\nif __name__ == "__main__":\n')[2]
        for path in (ROOT / "tools").rglob("*.py")
        if '\nif __name__ == "__main__":' in (text := path.read_text())
    }

    assert len(ends) > 20
    assert {name: end for name, end in ends.items() if end != "    command_line(main)\n"} == {}
