"""Being asked to stop."""

import os
import signal
import threading

import pytest

from sam_engine.training.signals import stop_requests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_ends_nothing(number: signal.Signals):
    """It is told to whoever asked for it, once for each; afterwards signals do what they did before."""
    before, told = signal.getsignal(number), []
    with stop_requests(lambda: told.append("stop")) as signals:
        assert signals == []
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    assert signals == [number, number]
    assert told == ["stop", "stop"]
    assert signal.getsignal(number) is before


def test_other_threads_hear_of_no_signal():
    """Python lets the main thread alone set handlers: elsewhere there are none, and no error."""
    seen = []

    def work() -> None:
        with stop_requests() as signals:
            seen.append((list(signals), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [([], before)]
