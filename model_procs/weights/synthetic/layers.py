"""Random initialization of layers. Runs in the same places as `model_procs.weights.synthetic`."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Draw linear and convolution weights that keep their input's variance; no biases.

    Without this scaling every layer would shrink the signal by a third, until only biases remain.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
            inputs = layer.weight[0].numel()
            if isinstance(layer, nn.ConvTranspose1d):
                inputs = layer.in_channels // layer.groups * layer.kernel_size[0] // layer.stride[0]
            layer.weight.normal_(std=1 / math.sqrt(inputs))
            if layer.bias is not None:
                layer.bias.zero_()
