"""Loops over pixels, compiled, and threads to run them in: what NumPy would do in many passes, one at a time.

numba compiles a function when it is first called, and keeps the result beside this package, or where it may
not write there, in the user's cache. Nothing reorders or fuses sums: they round as they are written.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar, cast

import numba
import torch
from numba.core.caching import FunctionCache

Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")
Result = TypeVar("Result")


def compiled(function: Function) -> Function:
    """Compile a function, which then releases the interpreter's lock while it runs."""
    dispatcher: Any = numba.njit(function, nogil=True, error_model="numpy")
    with contextlib.suppress(RuntimeError):  # there is no place to keep it: every process compiles it anew
        dispatcher._cache = _SpareCache(function)
    return cast(Function, dispatcher)


class _SpareCache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """numba's cache (``cache=True``) that nothing depends on: a full disk or a torn file does no harm."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was kept, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # noqa: BLE001  # whatever unpickling makes of a file that power loss cut off
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, where possible."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results in order, computed in as many threads as torch may use."""
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return [function(item) for item in items]
    return list(_pool(num_threads).map(function, items))


@lru_cache(maxsize=4)
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Return threads that are kept until the process ends."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="pixels")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
