"""Loops, compiled: what NumPy or torch would do in many passes over memory, in one.

numba compiles a function when it is first called, and keeps the result beside this package, or where it may
not write there, in the user's cache.
"""

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function, which then releases the interpreter's lock; it rounds as it is written."""
    return _compiled(function, fastmath=False)


def compiled_in_any_order(function: Function) -> Function:
    """Compile a function whose sums may be added up in any order, fused with products: many at a time."""
    return _compiled(function, fastmath={"reassoc", "contract", "arcp", "nsz"})


def _compiled(function: Function, fastmath: bool | set[str]) -> Function:
    """Return numba's dispatcher of a function."""
    dispatcher: Any = numba.njit(function, nogil=True, error_model="numpy", fastmath=fastmath)
    with contextlib.suppress(RuntimeError):  # there is no place to keep it: every process compiles it anew
        dispatcher._cache = _SpareCache(function)
    return cast(Function, dispatcher)


@functools.cache
def _say_once() -> None:
    """Say, once in a process, what the first image waits for."""
    log.info("compiling loops, which is done once on a machine and takes up to a minute")


class _SpareCache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """numba's cache (``cache=True``) that nothing depends on: a full disk or a torn file does no harm."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was kept, or None."""
        kept = self._load(sig, target_context)
        if kept is None:
            _say_once()
        return kept

    def _load(self, sig: Any, target_context: Any) -> Any:
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
