"""Being asked to stop: SIGTERM and SIGINT as something that training looks at between steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests(on_request: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """Yield a list that holds the number of a received SIGTERM or SIGINT; empty outside the main thread.

    Args:
        on_request: Called for each of them besides, in the signal handler.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        on_request()

    if threading.current_thread() is not threading.main_thread():  # as in Ray's workers
        yield received
        return
    previous = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
