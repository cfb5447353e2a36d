"""Threads for work that is cut into independent pieces: prompts of an image, masks of a prompt."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results in order, computed without gradients in as many threads as torch may use.

    Within them torch uses one thread each. A single item is done here, with all that torch may use.
    """
    waiting, num_threads = list(items), torch.get_num_threads()
    if num_threads == 1 or len(waiting) <= 1:
        return [function(item) for item in waiting]
    in_inference = torch.is_inference_mode_enabled()  # which is each thread's own

    def work(numbers: range) -> list[Result]:
        with torch.inference_mode(in_inference), torch.no_grad():
            return [function(waiting[number]) for number in numbers]

    hands = dealt(len(waiting))
    with _one_at_a_time:  # torch's setting is the thread's own, but what it sets in MKL is the process's
        torch.set_num_threads(1)
        try:
            done = list(_pool(num_threads).map(work, hands))
        finally:
            torch.set_num_threads(num_threads)
    return [done[number % len(hands)][number // len(hands)] for number in range(len(waiting))]


def dealt(num_items: int) -> list[range]:
    """Return which items each thread is dealt, by turns. To hand them over one by one would take longer."""
    num_threads = min(torch.get_num_threads(), num_items)
    return [range(first, num_items, num_threads) for first in range(num_threads)]


_one_at_a_time = threading.Lock()


@lru_cache(maxsize=4)
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Return threads that are kept until the process ends.

    Torch is told as they begin that it has one in each: on first use in a thread it would set MKL's number
    for all, and products of the first image would have other last bits than those of the same image later.
    """
    return ThreadPoolExecutor(
        num_threads, thread_name_prefix="pieces", initializer=torch.set_num_threads, initargs=(1,)
    )


def _forget() -> None:
    """Begin anew in a forked process: threads do not survive."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()
    _pool.cache_clear()


os.register_at_fork(after_in_child=_forget)
