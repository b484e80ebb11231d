"""Pocket TTS's flow LM for many runs at once: one latent of each per step. In workers.

The library speaks one text at a time. Here the rows of all runs go through each matrix together, so
that the weights are read once for all; everything else is computed for each row as if it were
alone. So a run's latents have the same bits in every company. Replaced are the library's loop, its
attention over caches of keys and values, and its linear layers; the modules and weights are its.

Guidance: a run with `guidance` g has a second row in each step, which sees the run's latents but
neither its text nor its voice. The latent is made from z_null + g * (z - z_null), where z is the
transformer's output for the first row, and z_null that for the second. This is the latent
classifier-free guidance of "Continuous Audio Language Models" (arXiv 2509.06926), the paper behind
Pocket TTS. The library has no guidance; its training code drops both conditions for z_null, as
here, and feeds the combined z to the flow net and to the decision about the end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from model_procs.engines.pocket.transformer import Layer, Rotary
from model_procs.heap import pages

if TYPE_CHECKING:
    from torch import Generator, Tensor

CHUNK = 32
"""How many tokens of a text are read in one step. Another number gives other bits."""

_STEP_ROWS = 64
"""The most rows of texts in one step while others speak: their sound must not wait for long.

With 96 the last of four that begin together is a tenth sooner, and the others a seventh later."""

_LANES = 32
"""PyTorch computes a remainder of fewer numbers with other instructions, and so other bits."""

_POSITIONS = 1024


@dataclass(frozen=True, slots=True)
class Prefix:
    """A voice: the keys and values of its positions, for each layer [1, heads, positions, dim].

    They may be mapped from a file; runs share them and do not change them.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    positions: int

    def first(self, positions: int) -> Prefix:
        """A copy of so many positions; what they are does not depend on those after them."""
        layers = tuple(
            (keys[:, :, :positions].clone(), values[:, :, :positions].clone())
            for keys, values in self.layers
        )
        return Prefix(layers, positions)


class Context:
    """What the rows of a run attend to: a prefix, and the run's own positions behind it."""

    def __init__(self, prefix: Prefix, cache: Any) -> None:
        """`cache` has room for keys and values [layers, 2, heads, positions, dim]."""
        self.prefix = prefix
        self.cache = cache
        self.length = 0
        """How many positions of `cache` are in use."""


@dataclass(eq=False)
class Run:
    """A text that is spoken at once: what the batch must know about it, and its state."""

    prefix: Prefix
    tokens: Tensor
    """[n]"""
    generator: Generator
    temperature: float
    decode_steps: int
    eos_threshold: float
    frames_after_eos: int
    most_frames: int
    noise_clamp: float | None = None
    """The largest noise; None means any."""
    guidance: float = 1.0
    """How much text and voice count; 1 is no guidance, and needs no second row."""
    null: Prefix | None = None
    """The prefix of the second row; needed for guidance."""

    context: Context | None = None
    null_context: Context | None = None
    """Those of the run's rows, from `FlowLM.open` on; the second one with guidance only."""
    read: int = 0
    """How many tokens have been read."""
    latent: Any = None
    """The last latent [ldim]; None before the first."""
    frame: int = 0
    ends: int | None = None
    """The frame before which it ends; None until the model has said so."""
    over: bool = False
    """Whether no more latents will come."""
    latents: deque[Any] = field(default_factory=deque)
    """Latents [ldim] that wait to be decoded."""

    @property
    def speaks(self) -> bool:
        """Whether the whole text has been read."""
        return self.read == len(self.tokens)

    @property
    def guided(self) -> bool:
        """Whether it has a second row in each step."""
        return self.guidance != 1.0


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows with one context in a step: `count` of them from `first` on."""

    context: Context
    first: int
    count: int
    mask: Any


class FlowLM:
    """The library's flow LM (`FlowLMModel`) for rows of different runs."""

    min_frames = 6
    """No run ends earlier: the library's `_MIN_FRAMES_BEFORE_EOS`."""

    def __init__(self, lm: Any, rows_step: int) -> None:
        """All linear layers of `lm` must be those of `model_procs.linears`.

        Those that modulate the flow net must be joined: see `modulations`. A step that reads has a
        multiple of `rows_step` rows, see `Kernel`.
        """
        self._rows_step = rows_step
        attention = lm.transformer.layers[0].self_attn
        self._heads, self._kv_heads = attention.num_heads, attention.num_kv_heads
        self._dim = attention.dim_per_head
        self._conditioner = lm.conditioner
        self._latent_dim = lm.ldim
        self._layers = [Layer(layer, attrgetter("linear")) for layer in lm.transformer.layers]
        self._latent_in = lm.input_linear.linear
        self._bos = self._latent_in(lm.bos_emb.detach()[None])
        self._out_norm = lm.out_norm
        self._z_proj = None if lm.z_proj is None else lm.z_proj.linear
        self._out_eos = lm.out_eos.linear
        self._flow = FlowNet(lm.flow_net, lm.flow_type)
        self._rotary = Rotary(self._dim, lm.transformer.max_period, _POSITIONS)

    def open(self, run: Run) -> None:
        """Make room for everything that the run may say; memory is only taken as it is used."""
        run.context = self._context(run.prefix, len(run.tokens) + 1 + run.most_frames)
        if run.guided:
            assert run.null is not None
            run.null_context = self._context(run.null, 1 + run.most_frames)

    def _context(self, prefix: Prefix, positions: int) -> Context:
        cache = pages(len(self._layers), 2, self._kv_heads, positions, self._dim)
        return Context(prefix, cache)

    def step(self, runs: Sequence[Run]) -> None:
        """Compute the next latent of each run that speaks; read more of the texts of others.

        A run that has read its text has its first latent in the same step.
        """
        import torch

        speaking = [run for run in runs if run.speaks]
        reading = self._in_turn([run for run in runs if not run.speaks], alone=not speaking)
        rows, parts, lasts = [], [], []
        first = 0
        if speaking:
            rows.append(self._latent_in(torch.stack([run.latent for run in speaking])))
        for run in speaking:
            parts.append(_Part(_opened(run.context), first, 1, None))
            lasts.append(first)
            first += 1
        finished = []
        for run in reading:
            context = _opened(run.context)
            chunk = run.tokens[run.read : run.read + CHUNK]
            rows.append(self._conditioner(chunk))
            count = len(chunk)
            run.read += count
            if run.speaks:
                rows.append(self._bos)
                count += 1
                finished.append(run)
                lasts.append(first + count - 1)
            parts.append(_Part(context, first, count, self._mask(context.length, count)))
            first += count
        # The second rows of guided runs: the same latents, in contexts without text and voice.
        nulls = []
        for run, row in zip(speaking + finished, lasts, strict=True):
            if run.guided:
                rows.append(rows[0][row : row + 1] if run.latent is not None else self._bos)
                parts.append(_Part(_opened(run.null_context), first, 1, None))
                nulls.append(first)
                first += 1
        if reading and first % self._rows_step:
            rows.append(torch.zeros(-first % self._rows_step, rows[0].shape[1]))
        hidden = self._transform(torch.cat(rows), parts)
        if lasts:
            for run in finished:
                self._noise(run)  # the library also draws, and does not use, one for the text
            self._give(speaking + finished, hidden[lasts + nulls])

    def _in_turn(self, reading: list[Run], *, alone: bool) -> list[Run]:
        """The runs whose texts are read in this step; at least one."""
        count = len(reading) if alone else max(1, _STEP_ROWS // CHUNK)
        return reading[:count]

    def _give(self, runs: list[Run], hidden: Tensor) -> None:
        """Make a latent for each run from its row of `hidden`, and see whether it ends.

        Behind the rows of all runs are the second rows of the guided ones.
        """
        import torch

        hidden = torch.nn.functional.layer_norm(
            hidden, hidden.shape[-1:], self._out_norm.weight, self._out_norm.bias, 1e-5
        )
        if self._z_proj is not None:
            hidden = self._z_proj(hidden)
        hidden = _guided(runs, hidden)
        scores = self._out_eos(hidden)[:, 0].tolist()
        noise = torch.stack([self._noise(run) for run in runs])
        latents = torch.empty_like(noise)
        for steps in {run.decode_steps for run in runs}:
            which = [index for index, run in enumerate(runs) if run.decode_steps == steps]
            latents[which] = self._flow.sample(hidden[which], noise[which], steps)
        for run, score, latent in zip(runs, scores, latents, strict=True):
            frame, run.frame = run.frame, run.frame + 1
            if run.ends is None and frame >= self.min_frames and score > run.eos_threshold:
                run.ends = frame + run.frames_after_eos
            if run.ends is not None and frame >= run.ends:
                run.over = True
                continue
            run.latent = latent
            run.latents.append(latent)
            run.over = run.frame >= run.most_frames

    def _noise(self, run: Run) -> Tensor:
        import torch

        noise = torch.empty(self._latent_dim)
        deviation = run.temperature**0.5
        if run.noise_clamp is None or not deviation:
            return noise.normal_(0, deviation, generator=run.generator)
        limit = run.noise_clamp
        return torch.nn.init.trunc_normal_(
            noise, 0, deviation, -limit, limit, generator=run.generator
        )

    def _transform(self, x: Tensor, parts: list[_Part]) -> Tensor:
        """All layers, for rows [n, dim]."""
        turns = self._rotary.at(self._positions(parts, len(x)))
        for index, layer in enumerate(self._layers):
            turned, values = layer.project(x, turns)
            x = layer.finish(x, self._attend(index, turned, values, parts))
        for part in parts:
            part.context.length += part.count
        return x

    def _attend(self, index: int, turned: Tensor, values: Tensor, parts: list[_Part]) -> Tensor:
        """Attention of each run's rows to its voice and to its own positions: [n, heads * dim].

        The two are computed apart, because the voice is shared, and weighted by their sums of
        exponentials. Each call of PyTorch counts here: there are many, and threads take turns.
        """
        import torch

        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        split = (self._kv_heads, self._heads // self._kv_heads, self._dim)
        added = torch.stack((turned[:, self._heads :], values), 1)
        # Query heads that share keys are like more rows: [n, kv_heads, group, dim].
        queries = turned[:, : self._heads].view(-1, *split)
        one_by_one = torch.split(queries, 1)
        results: list[Sequence[Tensor]] = []
        for part in parts:
            context = part.context
            cache, end = context.cache[index], context.length + part.count
            if part.count == 1:
                cache[:, :, end - 1] = added[part.first]
                asking, mask = one_by_one[part.first], None
            else:
                rows = slice(part.first, part.first + part.count)
                cache[:, :, context.length : end] = added[rows].permute(1, 2, 0, 3)
                asking = queries[rows].transpose(0, 1).reshape(1, self._kv_heads, -1, self._dim)
                mask = part.mask.repeat_interleave(split[1], 0)
            of_own = attention(asking, *cache[:, None, :, :end], attn_mask=mask)
            if context.prefix.positions:
                of_voice = attention(asking, *context.prefix.layers[index])
            else:  # it has no weight
                of_voice = torch.zeros_like(of_own[0]), torch.full_like(of_own[1], -math.inf)
            result: Sequence[Tensor] = (*of_voice, *of_own)
            results.append(
                result if part.count == 1 else [_by_row(each, part.count) for each in result]
            )
        to_voice, voice_sum, to_own, own_sum = map(torch.cat, zip(*results, strict=True))
        difference = voice_sum.sub_(own_sum).flatten(1)
        # The last dimension is a multiple of `_LANES`, see there.
        share = torch.nn.functional.pad(difference, (0, -self._heads % _LANES)).sigmoid_()
        part_of_voice = share[:, : self._heads].view(-1, *split[:2], 1)
        attended = to_own.addcmul_(to_voice.sub_(to_own), part_of_voice).flatten(1)
        return torch.nn.functional.pad(attended, (0, 0, 0, len(turned) - len(attended)))

    def _mask(self, length: int, count: int) -> Tensor:
        """For `count` new rows behind `length`: each sees what is before it, and itself."""
        import torch

        mask = torch.zeros(count, length + count)
        return mask.masked_fill_(
            torch.ones(count, length + count, dtype=torch.bool).triu_(length + 1), -math.inf
        )

    def _positions(self, parts: list[_Part], count: int) -> list[int]:
        """The position of each of `count` rows; those that belong to no run have any."""
        positions = [
            part.context.prefix.positions + part.context.length + offset
            for part in parts
            for offset in range(part.count)
        ]
        return positions + [0] * (count - len(positions))


def _opened(context: Context | None) -> Context:
    assert context is not None, "FlowLM.open comes first"
    return context


def _guided(runs: Sequence[Run], rows: Tensor) -> Tensor:
    """The transformer's output for each run, from its row and, behind all, its second row.

    Each operation rounds by itself, so that a row has the same bits in every company.
    """
    import torch

    guided = [index for index, run in enumerate(runs) if run.guided]
    if not guided:
        return rows
    rows, nulls = rows[: len(runs)], rows[len(runs) :]
    scales = torch.tensor([[runs[index].guidance] for index in guided])
    rows[guided] = nulls + scales * (rows[guided] - nulls)
    return rows


def modulations(net: Any) -> list[tuple[Any, str]]:
    """The layers of the flow net with the same input, its conditions: their modules and names.

    The attribute `modulations` of `net` must be all of them in one, as `linears.join` makes it.
    """
    blocks = (*net.res_blocks, net.final_layer)
    return [(block.adaLN_modulation, "1") for block in blocks]


def _by_row(attended: Tensor, count: int) -> Tensor:
    """For each row its part: [1, kv_heads, rows * group, ...] to [rows, kv_heads, group, ...]."""
    shape = attended.shape
    return attended.view(shape[1], count, -1, *shape[3:]).transpose(0, 1)


class FlowNet:
    """The library's flow net (`SimpleMLPAdaLN`): turns noise into latents, row by row."""

    def __init__(self, net: Any, flow_type: str) -> None:
        self._net = net
        self._type = flow_type
        self._cond = net.cond_embed.linear
        self._noise_in = net.input_proj.linear
        self._blocks = [
            (block.in_ln, block.mlp[0].linear, block.mlp[2].linear) for block in net.res_blocks
        ]
        self._modulations = net.modulations
        self._out = net.final_layer.linear.linear
        self._final_eps = net.final_layer.norm_final.eps
        self._times: dict[tuple[float, ...], Tensor] = {}

    def sample(self, hidden: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Latents [n, ldim] from the LM's output [n, z_dim] and noise [n, ldim].

        As the library's `lsd_decode` and its sisters.
        """
        conditions = self._cond(hidden)
        match self._type:
            case "drifting":
                return self._velocity(conditions, noise)
            case "pointwise":
                return noise + self._velocity(conditions, noise)
            case "flow_matching" | "lsd":
                for step in range(steps):
                    times = [step / steps, (step + 1) / steps][: len(self._net.time_embed)]
                    velocity = self._velocity(conditions + self._time(tuple(times)), noise)
                    noise = noise + velocity / steps
                return noise
            case other:
                raise ValueError(f"unknown flow type: {other}")

    def _time(self, times: tuple[float, ...]) -> Tensor:
        """The embedding of `times` [1, dim]."""
        import torch

        if times not in self._times:
            embedded = [
                embed(torch.full((1, 1), time))
                for embed, time in zip(self._net.time_embed, times, strict=True)
            ]
            self._times[times] = sum(embedded[1:], embedded[0]) / len(embedded)
        return self._times[times]

    def _velocity(self, conditions: Tensor, x: Tensor) -> Tensor:
        import torch

        functional = torch.nn.functional
        x = self._noise_in(x)
        width = x.shape[-1:]
        # Three for each block, two for the end.
        changes = iter(self._modulations(functional.silu(conditions)).split(width[0], -1))
        for norm, first, second in self._blocks:
            shift, scale, gate = next(changes), next(changes), next(changes)
            normed = functional.layer_norm(x, width, norm.weight, norm.bias, norm.eps)
            normed = normed.mul_(1 + scale).add_(shift)
            x = x + gate * second(functional.silu(first(normed)))
        shift, scale = changes
        normed = functional.layer_norm(x, width, None, None, self._final_eps)
        result: Tensor = self._out(normed.mul_(1 + scale).add_(shift))
        return result
