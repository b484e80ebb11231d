"""Rotary position embedding as in Pocket TTS's transformers. In workers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def tables(positions: int, dim: int, max_period: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines for each position: [positions, dim / 2] both.

    They are computed once, because PyTorch gives one position other bits in another company.
    """
    import torch

    exponents = torch.arange(dim // 2, dtype=torch.float32)
    frequencies = torch.exp(exponents * (-math.log(max_period) * 2 / dim))
    angles = frequencies * torch.arange(positions, dtype=torch.float32)[:, None]
    return torch.cos(angles), torch.sin(angles)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of neighbours: x [n, heads, dim]; cos, sin [n, 1, dim / 2]."""
    import torch

    real, imaginary = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    turned = (real * cos - imaginary * sin, real * sin + imaginary * cos)
    return torch.stack(turned, -1).flatten(-2)
