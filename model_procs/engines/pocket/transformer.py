"""What Pocket TTS's two transformers share: layers without attention, rotary embedding. In workers.

The modules and weights are the library's; which positions a row sees is up to each transformer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from model_procs.linears import Linear

if TYPE_CHECKING:
    from torch import Tensor


class Layer:
    """The library's `StreamingTransformerLayer` around its attention, for rows [n, width]."""

    def __init__(self, layer: Any, linear: Callable[[Any], Linear]) -> None:
        """`linear` makes the linear layers from the library's."""
        attention = layer.self_attn
        self._dim = attention.dim_per_head
        self._turned = attention.num_heads + attention.num_kv_heads
        self._norm1, self._norm2 = layer.norm1, layer.norm2
        self._in_proj, self._out_proj = linear(attention.in_proj), linear(attention.out_proj)
        self._linear1, self._linear2 = linear(layer.linear1), linear(layer.linear2)
        self._scale1, self._scale2 = (
            getattr(scale, "scale", None) for scale in (layer.layer_scale_1, layer.layer_scale_2)
        )

    def project(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, turned, [n, heads + kv_heads, dim]; and values [n, kv_heads, dim]."""
        projected = self._in_proj(_normed(x, self._norm1)).view(len(x), -1, self._dim)
        return rotate(projected[:, : self._turned], turns), projected[:, self._turned :]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rows after this layer, with the result of its attention [n, heads * dim]."""
        import torch

        x = x + _scaled(self._out_proj(attended), self._scale1)
        hidden = self._linear1(_normed(x, self._norm2))
        hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
        return x + _scaled(self._linear2(hidden), self._scale2)


def _normed(x: Tensor, norm: Any) -> Tensor:
    import torch

    return torch.nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def _scaled(change: Tensor, scale: Tensor | None) -> Tensor:
    return change if scale is None else change.mul_(scale)


class Rotary:
    """Rotary position embedding: turns from a table, which grows as it must.

    They are not computed anew, because PyTorch gives one position other bits in another company.
    """

    def __init__(self, dim: int, max_period: float, positions: int) -> None:
        self._dim, self._max_period = dim, max_period
        self._table = table(positions, dim, max_period)

    def at(self, positions: Sequence[int]) -> Tensor:
        """The turns of these positions: complex [n, 1, dim / 2]."""
        last = max(positions)
        if last >= len(self._table):
            self._table = table(2 * (last + 1), self._dim, self._max_period)
        return self._table[positions][:, None]


def table(positions: int, dim: int, max_period: float) -> Tensor:
    """The turns of each position, as complex numbers of length 1: [positions, dim / 2]."""
    import torch

    exponents = torch.arange(dim // 2, dtype=torch.float32)
    frequencies = torch.exp(exponents * (-math.log(max_period) * 2 / dim))
    angles = frequencies * torch.arange(positions, dtype=torch.float32)[:, None]
    return torch.complex(torch.cos(angles), torch.sin(angles))


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn pairs of neighbours: x [n, heads, dim]; turns complex [n, 1, dim / 2]."""
    import torch

    pairs = torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2)
