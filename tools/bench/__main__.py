"""``python -m tools.bench``: time the mask generator."""

import sys

from tools.bench.generator import main
from tools.command import run

if __name__ == "__main__":
    sys.exit(run(main))
