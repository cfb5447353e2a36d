"""``python -m tools.bench``: time the mask generator."""

from ..command import command_line
from .generator import main

if __name__ == "__main__":
    command_line(main)
