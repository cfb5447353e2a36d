"""``python -m tools.bench``: time the mask generator."""

import sys

from ..command import run
from .generator import main

if __name__ == "__main__":
    sys.exit(run(main))
