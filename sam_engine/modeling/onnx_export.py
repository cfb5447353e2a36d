"""Whether the network is being written as an ONNX graph."""

import sys

import torch


def is_in_onnx_export() -> bool:
    """Return whether `torch.onnx` traces now; importing it to ask would take 0.15 seconds."""
    return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()
