"""A decoder with planted bugs, for the harness to find: it crashes on input 3 and hangs on input 5."""

import os
import signal
import time

from .fuzzing import Step, serve


def make_step(seed: int) -> Step:
    """Return a step that is sound but for two inputs."""

    def step(number: int) -> str:
        if number == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 5:
            time.sleep(600)
        return f"fine {seed}"

    return step


if __name__ == "__main__":
    serve(make_step)
