"""Whether anything was put into a module: a layer of another type, a hook, a forward of one's own.

What is known to be as it was built may be computed in another order, or without calling it at all.
"""

from torch import nn


def is_as_built(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a module is of exactly this type, without hooks, own forward or compiled call."""
    return (
        type(module) is kind
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and "forward" not in vars(module)
        and module._compiled_call_impl is None
    )
