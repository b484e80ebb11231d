"""SenseVoice's encoder and CTC layer for several clips at once. Runs in templates and workers.

This is all that is bypassed of FunASR: `forward` of the encoder, of its layers with their attention
and memory block, and of the CTC layer. Their weights, and the encoding of positions, are FunASR's.

The frames of all clips are rows of one matrix, one clip below the other, without padding. Linear
layers compute all rows at once; attention and memory block compute each clip as if it were alone.
As long as a linear layer's result for a row does not depend on the other rows, the result for a
clip has the same bits alone and with others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_procs.linears import Linear
from model_procs.listening.hotwords import Frame

if TYPE_CHECKING:
    from torch import Tensor

_Make = Callable[["Tensor", "Tensor | None"], Linear]

_ROUND = 16
"""Products and convolutions get a multiple of so many rows, filled up with zeros.

oneDNN generates code for each number of rows, and keeps it: this takes time and memory.
"""

_CTC_ROWS = 64
"""Rows whose logits are in memory at once, a multiple of `_ROUND`; a row has 100 kB of them."""

_TAG_FRAMES = 3
"""The first frames of a clip: language, emotion, event."""


@dataclass(frozen=True, slots=True)
class BestPath:
    """The best token of each frame of a clip, and the logarithm of its probability.

    `tags` [3, vocabulary] are the logarithms for all tokens in the frames of language, emotion and
    event. `frames` are the likeliest tokens of each frame, if they were wanted.
    """

    tokens: list[int]
    scores: list[float]
    tags: Tensor
    frames: list[Frame] | None = None


class Encoder:
    """The encoder and the CTC layer of `model`, a SenseVoiceSmall.

    It keeps no reference to `model`, nor to the weights of its linear layers. `linear` makes such a
    layer from a weight [out, in] and a bias [out].
    """

    def __init__(self, model: Any, linear: _Make) -> None:
        encoder = model.encoder
        self._positions = encoder.embed
        self._scale = encoder.output_size() ** 0.5
        self._layers = [_Layer(layer, linear) for layer in (*encoder.encoders0, *encoder.encoders)]
        self._norm = _Norm(encoder.after_norm)
        self._last_layers = [_Layer(layer, linear) for layer in encoder.tp_encoders]
        self._last_norm = _Norm(encoder.tp_norm)
        self._ctc = linear(model.ctc.ctc_lo.weight, model.ctc.ctc_lo.bias)

    def prepare(self, rows: int) -> None:
        """Let oneDNN generate its code for all batches of up to `rows` rows.

        After this in a template, its workers share the code, and no first request waits for it.
        """
        import torch

        with torch.inference_mode():
            for count in range(_ROUND, rows + _ROUND, _ROUND):
                for layer in self._layers[:2]:  # the others are like the second
                    layer(torch.zeros(count, layer.inputs), [count])
            for count in range(_ROUND, _CTC_ROWS + _ROUND, _ROUND):
                self._ctc(torch.zeros(count, self._layers[-1].outputs))

    def recognize(
        self, clips: Sequence[Tensor], candidates: Sequence[int] = ()
    ) -> Generator[None, None, list[BestPath]]:
        """The best path of each of `clips`, features of shape [frames, features].

        `candidates` tells for each clip how many of the likeliest tokens of a frame are wanted.
        Yields often: after each layer, and after each `_CTC_ROWS` rows of the last one.
        """
        import torch

        encoded = yield from self.encode(clips)
        ends = list(itertools.accumulate(len(clip) for clip in clips))
        starts = [0, *ends[:-1]]
        tokens: list[int] = []
        scores: list[float] = []
        tag_rows = [start + frame for start in starts for frame in range(_TAG_FRAMES)]
        tags: list[Tensor] = []
        wanted = [
            count
            for clip, count in zip(clips, candidates or [0] * len(clips), strict=True)
            for _ in range(len(clip))
        ]
        frames: list[Frame] = []
        for row in range(0, len(encoded), _CTC_ROWS):
            logits = self._ctc(encoded[row : row + _CTC_ROWS])
            logarithms = torch.nn.functional.log_softmax(logits, dim=-1)
            best = logarithms.max(dim=-1)
            tokens += best.indices.tolist()
            scores += best.values.tolist()
            here = [each - row for each in tag_rows if row <= each < row + len(logits)]
            tags += [logarithms[each].clone() for each in here]
            if counts := wanted[row : row + len(logits)]:
                frames += _frames(logarithms, counts)
            yield
        return [
            BestPath(
                tokens[start:end],
                scores[start:end],
                torch.stack(tags[index * _TAG_FRAMES : (index + 1) * _TAG_FRAMES]),
                frames[start:end] if candidates and candidates[index] else None,
            )
            for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]

    def encode(self, clips: Sequence[Tensor]) -> Generator[None, None, Tensor]:
        """The encoder's output for all frames of `clips`, [frames, width]; yields after a layer.

        Behind the last clip are rows without a meaning, up to a multiple of `_ROUND`.
        """
        import torch

        lengths = [len(clip) for clip in clips]
        rows = torch.cat([self._positions((clip * self._scale)[None])[0] for clip in clips])
        rows = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % _ROUND))
        for layer in self._layers:
            rows = layer(rows, lengths)
            yield
        rows = self._norm(rows)
        for layer in self._last_layers:
            rows = layer(rows, lengths)
            yield
        return self._last_norm(rows)


def _frames(logarithms: Tensor, counts: Sequence[int]) -> list[Frame]:
    """The likeliest tokens of each row, so many as `counts` has for it."""
    most = max(counts)
    if not most:
        return [Frame((), ())] * len(counts)
    best = logarithms[: len(counts)].topk(most, dim=-1)
    tokens, scores = best.indices.tolist(), best.values.tolist()
    return [Frame(tokens[row][:count], scores[row][:count]) for row, count in enumerate(counts)]


class _Layer:
    """A layer: attention with a memory block, then a feed-forward network; norms before both."""

    def __init__(self, layer: Any, linear: _Make) -> None:
        attention, network = layer.self_attn, layer.feed_forward
        self._norm = _Norm(layer.norm1)
        self._heads = attention.h
        self._queries_keys_values = linear(
            attention.linear_q_k_v.weight, attention.linear_q_k_v.bias
        )
        self._out = linear(attention.linear_out.weight, attention.linear_out.bias)
        # In two dimensions, because PyTorch has a quick kernel for rows of channels only there.
        self._memory = attention.fsmn_block.weight.detach().clone()[..., None]
        self._padding = attention.pad_fn.padding
        self._residual = layer.in_size == layer.size
        self.inputs: int = layer.in_size
        self.outputs: int = layer.size
        self._norm_2 = _Norm(layer.norm2)
        self._first = linear(network.w_1.weight, network.w_1.bias)
        self._second = linear(network.w_2.weight, network.w_2.bias)

    def __call__(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        """The rows after this layer; may overwrite `rows`."""
        import torch

        projected = self._queries_keys_values(self._norm(rows))
        width = projected.shape[1] // 3
        attended = torch.zeros(len(rows), width)
        if not self._residual:
            rows = torch.zeros(len(rows), width)
        start = 0
        for length in lengths:
            clip = slice(start, start + length)
            attended[clip] = self._attend(projected[clip])
            values = projected[clip, 2 * width :]
            rows[clip] += values
            rows[clip] += self._remember(values)
            start += length
        del projected
        rows += self._out(attended)
        hidden = self._first(self._norm_2(rows)).relu_()
        rows += self._second(hidden)
        return rows

    def _attend(self, projected: Tensor) -> Tensor:
        """Attention of one clip: queries, keys and values [frames, 3 * width] to its result."""
        import torch

        frames = len(projected)
        # [3, 1, heads, frames, width / heads]
        split = projected.view(1, frames, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.unbind()
        result = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
        return result.transpose(1, 2).reshape(frames, -1)

    def _remember(self, values: Tensor) -> Tensor:
        """The memory block of one clip: a convolution over the frames of each channel."""
        import torch

        before, after = self._padding
        after += -len(values) % _ROUND
        padded = torch.nn.functional.pad(values, (0, 0, before, after))
        image = padded.t()[None, :, :, None].to(memory_format=torch.channels_last)
        result = torch.nn.functional.conv2d(image, self._memory, groups=len(self._memory))
        return result[0, :, : len(values), 0].t()


class _Norm:
    """A layer norm with weights of its own."""

    def __init__(self, norm: Any) -> None:
        self._arguments = (
            norm.normalized_shape,
            norm.weight.detach().clone(),
            norm.bias.detach().clone(),
            norm.eps,
        )

    def __call__(self, rows: Tensor) -> Tensor:
        import torch

        return torch.nn.functional.layer_norm(rows, *self._arguments)
