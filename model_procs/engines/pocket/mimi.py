"""Mimi, Pocket TTS's decoder, for many runs at once: latents to sound. In workers.

The modules and weights are the library's. Here time is before channels, so that a convolution is
one matrix product over the rows of all runs, whose parts are then added with a shift. What reaches
into the next block of a run is kept: a convolution's unfinished sums, and the keys and values of
the attention's window. Attention is computed frame by frame for each run. So a run's samples have
the same bits in every company and in blocks of every length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from model_procs.engines.pocket.transformer import Layer, Rotary
from model_procs.heap import pages
from model_procs.linears import Kernel, Linear, fp32, make

if TYPE_CHECKING:
    from torch import Tensor

_FRAMES_BETWEEN_MOVES = 16
"""How many frames fit behind the attention's window until it is moved to the front."""

_POSITIONS = 16_384
"""The longest run in steps of the transformer, 80 s; longer ones make the table longer."""


class Sound:
    """The state of one run in Mimi: `slot` has its convolutions, the rest its attention."""

    def __init__(self, slot: int, caches: list[Any]) -> None:
        self.slot = slot
        self.caches = caches
        """For each layer keys and values [2, heads, positions, dim]."""
        self.steps = 0
        """How many steps of the transformer have been made."""
        self.end = 0
        """How many positions of `caches` are in use."""


class Mimi:
    """The library's decoder (`MimiModel`) for blocks of different runs.

    Several threads may decode at once, if no run is in two of them.
    """

    def __init__(self, tts: Any, slots: int, kernel: Kernel | None) -> None:
        """`tts` is the library's `TTSModel`; `kernel` is for the transformer, None means fp32.

        In int8 the convolutions lose a hundred times more than the transformer.
        """
        import torch

        mimi = tts.mimi
        self._std, self._mean = tts.flow_lm.emb_std.detach(), tts.flow_lm.emb_mean.detach()
        self._latent_in = fp32(mimi.quantizer.output_proj.weight[:, :, 0])
        self._up = _depthwise(mimi.upsample.convtr, slots) if hasattr(mimi, "upsample") else None
        self._transformer = _Transformer(mimi.decoder_transformer, kernel)
        self._frame_steps = round(mimi.encoder_frame_rate / mimi.frame_rate)
        self._layers = [_layer(module, slots) for module in mimi.decoder.model]
        self.frame_size = mimi.frame_size
        self._fade = torch.linspace(0, 1, tts.config.mimi.sample_rate // 200)
        """The library fades the first 5 ms in, because a fresh state makes a click."""
        self._free = list(range(slots))

    def open(self) -> Sound:
        """A fresh state; `close` gives its slot back."""
        slot = self._free.pop()
        for layer in (self._up, *self._layers):
            if isinstance(layer, _Stateful):
                layer.forget(slot)
        return Sound(slot, self._transformer.caches(self._frame_steps))

    def close(self, sound: Sound) -> None:
        """Give the slot back to the next run."""
        self._free.append(sound.slot)

    def decode(self, sounds: Sequence[Sound], latents: Tensor) -> Tensor:
        """The next frames of each run: latents [runs, frames, ldim] to [runs, samples]."""
        import torch

        count, frames, _ = latents.shape
        slots = torch.tensor([sound.slot for sound in sounds])
        x = (latents * self._std + self._mean).view(count * frames, -1)
        x = self._latent_in(x).view(count, frames, -1)
        if self._up is not None:
            x = self._up(x, slots)
        begins = [index for index, sound in enumerate(sounds) if sound.steps == 0]
        x = self._transformer(x, sounds, self._frame_steps)
        for layer in self._layers:
            x = layer(x, slots)
        samples = x.reshape(count, frames * self.frame_size)
        for index in begins:
            samples[index, : len(self._fade)] *= self._fade
        return samples


def _linear(layer: Any) -> Linear:
    """The library's linear layer."""
    return fp32(layer.weight, layer.bias)


class _Stateful:
    """A layer that keeps something of each run for its next block: `_kept` [slots, ...]."""

    _kept: Any

    def forget(self, slot: int) -> None:
        """Begin with silence."""
        self._kept[slot] = 0


class _Convolution(_Stateful):
    """The library's `StreamingConv1d` with stride 1."""

    def __init__(self, conv: Any, slots: int) -> None:
        import torch

        (dilation,), (stride,) = conv.dilation, conv.stride
        if stride != 1 or conv.groups != 1:
            raise ValueError("Mimi's decoder has a convolution with strides or groups")
        self._out, _, self._taps = conv.weight.shape
        self._dilation = dilation
        # Every sum has one part of the last tap, so the bias may go with that.
        bias = torch.zeros(self._taps, self._out)
        if conv.bias is not None:
            bias[-1] = conv.bias.detach()
        weight = conv.weight.permute(2, 0, 1).flatten(0, 1)
        self._linear = fp32(weight, bias.flatten())
        self._kept = torch.zeros(slots, (self._taps - 1) * dilation, self._out)

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        """x [runs, time, in] to [runs, time, out]."""
        count, time, _ = x.shape
        parts = self._linear(x.reshape(count * time, -1)).view(count, time, self._taps, self._out)
        if self._taps == 1:
            return parts[:, :, 0]
        late = self._kept.shape[1]
        sums = x.new_zeros(count, late + time, self._out)
        sums[:, :late] = self._kept[slots]
        for tap in range(self._taps):  # the oldest first, so that blocks do not change the order
            shift = (self._taps - 1 - tap) * self._dilation
            sums[:, shift : shift + time] += parts[:, :, tap]
        self._kept[slots] = sums[:, time:]
        return sums[:, :time]


class _Upsampling(_Stateful):
    """The library's `StreamingConvTranspose1d` with a kernel of two strides."""

    def __init__(self, conv: Any, slots: int) -> None:
        import torch

        (self._stride,) = conv.stride
        channels, self._out, kernel = conv.weight.shape
        if kernel != 2 * self._stride or conv.groups != 1:
            raise ValueError("Mimi's decoder has an upsampling whose kernel is not two strides")
        weight = conv.weight.permute(2, 1, 0).reshape(-1, channels)
        bias = torch.zeros(2, self._stride, self._out)
        if conv.bias is not None:
            bias[0] = conv.bias.detach()
        self._linear = fp32(weight, bias.flatten())
        self._kept = torch.zeros(slots, self._stride, self._out)

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        """x [runs, time, in] to [runs, time * stride, out]."""
        count, time, _ = x.shape
        parts = self._linear(x.reshape(count * time, -1))
        parts = parts.view(count, time, 2, self._stride, self._out)
        return _overlapped(parts[:, :, 0], parts[:, :, 1], self._kept, slots)


def _overlapped(now: Tensor, later: Tensor, kept: Tensor, slots: Tensor) -> Tensor:
    """Add to each step what the one before left: both [runs, time, stride, out]."""
    import torch

    count, time, stride, out = now.shape
    sums = torch.empty(count, time, stride, out)
    torch.add(now[:, 1:], later[:, :-1], out=sums[:, 1:])
    torch.add(now[:, 0], kept[slots], out=sums[:, 0])
    kept[slots] = later[:, -1]
    return sums.view(count, time * stride, out)


class _Depthwise(_Stateful):
    """An upsampling for each channel by itself."""

    def __init__(self, weight: Tensor, slots: int) -> None:
        """`weight` [2 strides, channels]."""
        import torch

        self._now, self._later = weight.chunk(2)
        self._kept = torch.zeros(slots, *self._now.shape)

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        """x [runs, time, channels] to [runs, time * stride, channels]."""
        steps = x[:, :, None]
        return _overlapped(steps * self._now, steps * self._later, self._kept, slots)


def _depthwise(streaming: Any, slots: int) -> _Depthwise:
    conv = streaming.convtr
    channels, out, kernel = conv.weight.shape
    if out != 1 or conv.groups != channels or kernel != 2 * conv.stride[0] or conv.bias is not None:
        raise ValueError("Mimi's upsampling of latents is not one for each channel")
    return _Depthwise(conv.weight.detach()[:, 0].t().contiguous(), slots)


class _Residual(_Stateful):
    """The library's `SEANetResnetBlock`."""

    def __init__(self, block: Any, slots: int) -> None:
        self._layers = [_layer(module, slots) for module in block.block]

    def forget(self, slot: int) -> None:
        for layer in self._layers:
            if isinstance(layer, _Stateful):
                layer.forget(slot)

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        changed = x
        for layer in self._layers:
            changed = layer(changed, slots)
        return x + changed


def _layer(module: Any, slots: int) -> Callable[[Tensor, Tensor], Tensor]:
    """One module of the library's `SEANetDecoder`."""
    import torch

    match type(module).__name__:
        case "ELU":
            return lambda x, _: torch.nn.functional.elu(x, module.alpha)
        case "StreamingConv1d":
            return _Convolution(module.conv, slots)
        case "StreamingConvTranspose1d":
            return _Upsampling(module.convtr, slots)
        case "SEANetResnetBlock":
            return _Residual(module, slots)
        case other:
            raise ValueError(f"Mimi's decoder has a {other}, which this version does not know")


class _Transformer:
    """The library's `ProjectedTransformer` with attention in a window."""

    def __init__(self, projected: Any, kernel: Kernel | None) -> None:
        def linear(layer: Any) -> Linear:
            return _linear(layer) if kernel is None else make(kernel, layer.weight, layer.bias)

        transformer = projected.transformer
        self._in = None if projected.input_proj is None else _linear(projected.input_proj)
        (out,) = projected.output_projs
        self._out = _linear(out) if hasattr(out, "weight") else None
        self._layers = [Layer(layer, linear) for layer in transformer.layers]
        attention = transformer.layers[0].self_attn
        self._heads, self._dim = attention.num_heads, attention.dim_per_head
        self._before = attention.context - 1
        """How many positions before its own a step sees."""
        self._rotary = Rotary(self._dim, transformer.max_period, _POSITIONS)
        self._masks: dict[tuple[int, int], Tensor] = {}

    def caches(self, frame_steps: int) -> list[Any]:
        """Keys and values of a run that has not begun; memory is only taken as it is used."""
        positions = 2 * self._before + _FRAMES_BETWEEN_MOVES * frame_steps
        return [pages(2, self._heads, positions, self._dim) for _ in self._layers]

    def __call__(self, x: Tensor, sounds: Sequence[Sound], frame_steps: int) -> Tensor:
        """x [runs, steps, in] to [runs, steps, out]; each run's steps follow its last ones."""
        import torch

        count, steps, _ = x.shape
        x = x.reshape(count * steps, -1)
        if self._in is not None:
            x = self._in(x)
        for sound in sounds:
            self._make_room(sound, steps)
        positions = [sound.steps + step for sound in sounds for step in range(steps)]
        turns = self._rotary.at(positions)
        for index, layer in enumerate(self._layers):
            turned, values = layer.project(x, turns)
            # Keys and values of each run: [2, heads, steps, dim].
            added = torch.stack((turned[:, self._heads :], values))
            added = added.view(2, count, steps, *values.shape[1:]).permute(1, 0, 3, 2, 4)
            # Queries of each frame: [1, heads, steps, dim].
            frames = turned.view(-1, frame_steps, *turned.shape[1:])[:, :, : self._heads]
            asking = iter(torch.split(frames.transpose(1, 2), 1))
            attended: list[Tensor] = []
            for sound, keys_values in zip(sounds, added.unbind(), strict=True):
                end = sound.end + steps
                cache = sound.caches[index]
                cache[:, :, sound.end : end] = keys_values
                for frame_end in range(sound.end + frame_steps, end + 1, frame_steps):
                    attended.append(self._attend(next(asking), cache, frame_end))
            x = layer.finish(x, torch.cat(attended).transpose(1, 2).reshape(len(x), -1))
        for sound in sounds:
            sound.end += steps
            sound.steps += steps
        if self._out is not None:
            x = self._out(x)
        return x.view(count, steps, -1)

    def _attend(self, queries: Tensor, cache: Tensor, end: int) -> Tensor:
        """Attention of one frame's queries [1, heads, steps, dim]; the same shape.

        Their own positions in `cache` [2, heads, positions, dim] are the last before `end`.
        """
        import torch

        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        steps = queries.shape[2]
        start = max(0, end - steps - self._before)
        keys, values = cache[:, None, :, start:end]
        attended: Tensor = attention(
            queries, keys, values, attn_mask=self._mask(steps, end - start)
        )[0]
        return attended

    def _make_room(self, sound: Sound, steps: int) -> None:
        """Move the window to the front when the cache is full."""
        if sound.end + steps <= sound.caches[0].shape[2]:
            return
        for cache in sound.caches:
            cache[:, :, : self._before] = cache[:, :, sound.end - self._before : sound.end].clone()
        sound.end = self._before

    def _mask(self, steps: int, positions: int) -> Tensor:
        """For the `steps` last of the positions that they see together: [steps, positions]."""
        import torch

        if (steps, positions) not in self._masks:
            ages = torch.arange(steps)[:, None] + positions - steps - torch.arange(positions)
            hidden = (ages < 0) | (ages > self._before)
            mask = torch.zeros(hidden.shape).masked_fill_(hidden, -math.inf)
            self._masks[steps, positions] = mask
        return self._masks[steps, positions]
