"""The attention of all networks."""

from torch import Tensor
from torch.nn import functional as F

from sam_engine.modeling.onnx_export import is_in_onnx_export


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """Return softmax(q k^T * scale + bias) v over (..., N, c), (..., K, c) and (..., K, c).

    In ONNX export it is written as that formula, which every opset has.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        bias: (..., N, K), added to the scores.
        scale: None: 1 / sqrt(c).
    """
    if not is_in_onnx_export():
        return F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(dim=-1) @ v
