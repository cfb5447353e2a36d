"""Being asked to stop: SIGINT and SIGTERM end every program with one line and exit code 130 or 143."""

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked the run to end. Not an Exception: nothing may take it for a bad shard."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Callable[[], None]]:
    """Turn SIGINT and SIGTERM into `Stopped`; a second one ends the process where it stands.

    Either is safe at any line: what is published is whole, and what is not is done again. Yields a check to
    call now and then, for Python drops what a handler raises while an object is being finalised. Outside the
    main thread signals are left alone.
    """
    received: list[int] = []

    def check() -> None:
        if received:
            raise Stopped(received[0])

    def stop(number: int, _: object) -> None:
        received.append(number)
        for other in handlers:
            signal.signal(other, lambda again, _: os._exit(128 + again))
        check()

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    handlers = {number: signal.signal(number, stop) for number in NUMBERS}
    try:
        yield check
    except Stopped:
        raise
    except BaseException:
        # What `Stopped` became on its way: SystemError in native code that does not expect it, as in
        # ray.wait(), or what went wrong in a `finally` that found its work half done.
        check()
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def stoppable(program: Callable[[], int], *, afterwards: str) -> int:
    """Return the exit code of a program that may be stopped by a signal at any time.

    Args:
        program: Returns its own exit code.
        afterwards: What the same command does after that, for the line that says what happened.
    """
    try:
        with stopped_by_signals():
            return program()
    except (Stopped, KeyboardInterrupt) as stopped:
        number = signal.Signals(stopped.number if isinstance(stopped, Stopped) else signal.SIGINT)
        with contextlib.suppress(OSError):
            print(f"stopped by {number.name}; {afterwards}", file=sys.stderr)
        return 128 + number


def quit_at_once() -> None:
    """Let SIGINT and SIGTERM end the process with one line, from now on and until a program says otherwise.

    For the seconds in which programs import what they need, when there is nothing yet to be cleaned up.
    """
    for number in NUMBERS:
        signal.signal(number, _quit)


def _quit(number: int, _frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def leave(code: int) -> NoReturn:
    """End the process with an exit code, cleaned up but without taking the interpreter apart.

    Native threads (of Ray, torch and Arrow) that still run while Python frees its objects end one process in
    four with a segmentation fault after a Ctrl-C, and its exit code would be 139.
    """
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
