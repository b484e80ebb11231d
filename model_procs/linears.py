"""Linear layers whose result for a row does not depend on the other rows. Used by engines.

A batch computes the rows of many requests in one product, so that the weights are read once for all
of them. Usual products choose another kernel for another number of rows, and so another order of
the sums: then what one request gets depends on its company. The kernels here give a row the same
bits in every batch. Which of them is fastest differs between processors: `choose` measures it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor

Linear = Callable[["Tensor"], "Tensor"]
"""Rows [n, in] to rows [n, out], both float32."""

_COMPANIES = (1, 2, 3, 4, 5, 8, 33, 80)
"""Numbers of rows for which a row must have the same bits; a step of eight texts has up to 80."""

_ALONE = 33
"""How many different rows are in them."""

_ROUNDS = 8
"""Measurements of each kernel; the shortest counts, because others may use the processor too."""

_HOPELESS, _HOPELESS_SECONDS = 20.0, 0.01
"""A kernel is not considered if a product takes so many times as long as with an earlier one in the
list, and so many seconds."""

_GAIN = 0.9
"""A kernel takes the place of an earlier one in the list if it needs at most this part of its time.

The earlier ones are better in other ways, and a small difference may be noise."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to compute linear layers: `build` makes one from its weight [out, in]."""

    name: str
    build: Callable[[Tensor], Linear]
    rows_step: int = 16
    """Give it a multiple of so many rows: it generates, and keeps, code for each number of rows."""


def make(kernel: Kernel, weight: Tensor, bias: Tensor | None = None) -> Linear:
    """The layer with this weight [out, in] and bias [out]."""
    linear = kernel.build(weight.detach().contiguous())
    if bias is None:
        return linear
    kept = bias.detach().clone()
    return lambda rows: linear(rows).add_(kept)


def fp32(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """The layer in fp32, with the first kernel of `FP32` that is exact for its shape."""
    shape = tuple(weight.shape)
    if shape not in _chosen:
        _chosen[shape] = next(kernel for kernel in FP32 if _exact(kernel, [weight.detach()]))
    return make(_chosen[shape], weight, bias)


_chosen: dict[tuple[int, ...], Kernel] = {}
"""The kernel for each shape of an fp32 layer."""


def choose(
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor],
    rows: Sequence[int],
    wanted: str | None = None,
) -> Kernel:
    """The fastest of `kernels`, the best first, for layers like `weights` and `rows` rows.

    Only kernels count that run here, give a row the same bits in every company, and compute without
    overflow. If `wanted` is the name of one of them, nothing is measured. Raises `RuntimeError`
    when there is none.
    """
    by_shape = list({weight.shape: weight.detach() for weight in weights}.values())
    exact: list[Kernel] = []
    layers: list[list[Linear]] = []
    fastest = math.inf
    for kernel in sorted(kernels, key=lambda kernel: kernel.name != wanted):
        seconds = _product_seconds(kernel, max(by_shape, key=lambda weight: weight.numel()))
        if seconds is None or seconds > max(_HOPELESS * fastest, _HOPELESS_SECONDS):
            continue
        fastest = min(fastest, seconds)
        if linears := _exact(kernel, by_shape):
            if kernel.name == wanted:
                return kernel
            exact.append(kernel)
            layers.append(linears)
    if not exact:
        names = ", ".join(kernel.name for kernel in kernels)
        raise RuntimeError(f"no kernel for linear layers is exact on this processor: {names}")
    chosen, shortest = exact[0], math.inf
    for kernel, seconds in zip(exact, _seconds(layers, by_shape, rows), strict=True):
        if seconds < _GAIN * shortest:
            chosen, shortest = kernel, seconds
    return chosen


def _product_seconds(kernel: Kernel, weight: Tensor) -> float | None:
    """The shortest time of a product with two rows; None if the kernel does not run here.

    Some kernels have no code for some processors but a reference for tests, which takes thousands
    of times as long: to check and to measure it takes a minute.
    """
    import torch

    shortest = math.inf
    try:
        linear = make(kernel, weight)
        rows = torch.randn(2, weight.shape[1])
        for _ in range(3):
            began = time.perf_counter()
            linear(rows)
            shortest = min(shortest, time.perf_counter() - began)
    except (RuntimeError, NotImplementedError, AttributeError):
        return None  # this processor, or this build of PyTorch, does not have it
    return shortest


def _exact(kernel: Kernel, weights: Sequence[Tensor]) -> list[Linear]:
    """The layers with `weights`; none unless `kernel` is exact.

    It is if it runs here, does not overflow, and computes each row as if it were alone.
    """
    try:
        linears = [make(kernel, weight) for weight in weights]
        exact = _true(kernel) and all(map(_independent, linears, weights))
    except (RuntimeError, NotImplementedError, AttributeError):
        return []  # not for these shapes
    return linears if exact else []


@cache
def _true(kernel: Kernel) -> bool:
    """Whether the largest sums are right; 8 bits times 8 bits overflow on some processors."""
    import torch

    size = 512
    signs = torch.ones(size)
    signs[::2] = -1
    for weight in (torch.ones(32, size), signs.repeat(32, 1)):
        product = kernel.build(weight)(weight[:3].contiguous())
        if not torch.allclose(product, torch.full_like(product, size), rtol=0.01):
            return False
    return True


def _independent(linear: Linear, weight: Tensor) -> bool:
    """Whether rows have the same bits in every company and at every place in it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(_ALONE, weight.shape[1], generator=generator)
    alone = torch.cat([linear(row[None]) for row in rows])
    if not torch.isfinite(alone).all():
        return False
    companies = [torch.arange(-count, 0) % _ALONE for count in _COMPANIES]
    return all(torch.equal(linear(rows[which]), alone[which]) for which in companies)


def _seconds(
    kernels: Sequence[Sequence[Linear]], weights: Sequence[Tensor], rows: Sequence[int]
) -> list[float]:
    """For each kernel's layers the shortest time of one product with each number of rows.

    The kernels take turns, so that a busy moment does not count against one of them only.
    """
    import torch

    inputs = [torch.randn(count, weight.shape[1]) for weight in weights for count in rows]
    shortest = [math.inf] * len(kernels)
    for _ in range(_ROUNDS):
        for index, layers in enumerate(kernels):
            work = [layer for layer in layers for _ in rows]
            began = time.perf_counter()
            for layer, x in zip(work, inputs, strict=True):
                layer(x)
            shortest[index] = min(shortest[index], time.perf_counter() - began)
    return shortest


# fp32


def _onednn(weight: Tensor, least_rows: int = 1) -> Linear:
    """oneDNN with weights in its own layout; some shapes need two rows to be exact."""
    import torch

    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 8)
    product = torch.ops.mkldnn._linear_pointwise

    def linear(rows: Tensor) -> Tensor:
        if len(rows) < least_rows:
            rows = torch.nn.functional.pad(rows, (0, 0, 0, least_rows - len(rows)))
            return cast("Tensor", product(rows, packed, None, "none", [], ""))[:1]
        return cast("Tensor", product(rows, packed, None, "none", [], ""))

    return linear


def _in_blocks(weight: Tensor) -> Linear:
    """PyTorch's own product, always with four rows: the same kernel for all."""
    import torch

    size = 4
    kept = weight.clone()

    def linear(rows: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % size))
        blocks = [torch.nn.functional.linear(block, kept) for block in torch.split(padded, size)]
        return torch.cat(blocks)[: len(rows)]

    return linear


def _one_by_one(weight: Tensor) -> Linear:
    """A product for each row: exact everywhere, and slow for many rows."""
    import torch

    kept = weight.clone()
    return lambda rows: torch.stack([torch.mv(kept, row) for row in rows])


FP32 = (
    Kernel("oneDNN fp32", _onednn),
    Kernel("oneDNN fp32, two rows and more", lambda weight: _onednn(weight, least_rows=2)),
    Kernel("fp32 in blocks of four rows", _in_blocks),
    Kernel("fp32 row by row", _one_by_one),
)
"""fp32; on the processors that we know the first is exact for most shapes, and the fastest."""


# int8: weights with a scale for each output channel, activations with one for each row. With one
# scale for all activations, as PyTorch's dynamic quantisation has it, rows depend on each other.


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values [out, in] and float32 scales [out] of a weight, symmetric."""
    import torch

    scales = _scales(weight)
    values = (weight / scales[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return values, scales


def _scales(weight: Tensor) -> Tensor:
    return (weight.abs().amax(1) / 127).clamp_min(1e-9)


def _quantized_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values [n, in] and float32 scales [n, 1] of rows, symmetric."""
    import torch

    scales = rows.abs().amax(-1, keepdim=True).clamp_min_(1e-12).mul_(1 / 127)
    return (rows / scales).round_().to(torch.int8), scales


def _onednn_int8(weight: Tensor) -> Linear:
    """oneDNN: VNNI or AMX instructions where the processor has them."""
    import torch

    values, scales = _quantized(weight)
    zero_points = torch.zeros(len(scales), dtype=torch.int64)
    packed = torch.ops.onednn.qlinear_prepack(values, None)
    product = torch.ops.onednn.qlinear_pointwise
    rest: tuple[Any, ...] = (
        1.0,
        0,
        packed,
        scales,
        zero_points,
        None,
        1.0,
        0,
        torch.float32,
        "none",
        [],
        "",
    )

    def linear(rows: Tensor) -> Tensor:
        values, scales = _quantized_rows(rows)
        result: Tensor = product(values, *rest)
        return result.mul_(scales)

    return linear


def _fbgemm(weight: Tensor, steps: int) -> Linear:
    """FBGEMM, told a fixed scale: it gets rows that have been divided by their own.

    `steps` on each side of zero: 127 is 8 bits, with which it overflows on processors without VNNI.
    """
    import torch

    scales = _scales(weight).double()
    zero_points = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls its quantised types deprecated
        values = torch.quantize_per_channel(weight, scales, zero_points, 0, torch.qint8)
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        packed = torch.ops.quantized.linear_prepack(values, None)
    finally:
        torch.backends.quantized.engine = engine
    product = _fbgemm_product()
    return lambda rows: cast("Tensor", product(rows, packed, steps))


@cache
def _fbgemm_product() -> Callable[..., Any]:
    import torch

    def product(
        rows: torch.Tensor,
        packed: torch.classes.quantized.LinearPackedParamsBase,  # type: ignore[name-defined]
        steps: int,
    ) -> torch.Tensor:
        largest = rows.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        result: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows / largest, 1 / steps, steps + 1, packed
        )
        return result.mul_(largest)

    return _scripted(product)


def _scripted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same as one call of PyTorch, which takes the interpreter's lock once.

    Threads wait for each other at this lock: it makes two streams a sixth faster. TorchScript is
    deprecated; without it the function works as it is, with the same bits.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return cast("Callable[..., Any]", torch.jit.script(function))
        except (AttributeError, RuntimeError, OSError):  # OSError: there is no source
            return function


def _weights_only(weight: Tensor) -> Linear:
    """int8 weights, activations in bf16: PyTorch's kernel for processors of all kinds."""
    import torch

    values, scales = _quantized(weight)
    scales = scales.bfloat16()

    def linear(rows: Tensor) -> Tensor:
        product: Tensor = torch._weight_int8pack_mm(rows.bfloat16(), values, scales)
        return product.float()

    return linear


def _int_mm(weight: Tensor) -> Linear:
    """PyTorch's product of int8 matrices."""
    import torch

    values, scales = _quantized(weight)
    values = values.t().contiguous()

    def linear(rows: Tensor) -> Tensor:
        quantized, scales_of_rows = _quantized_rows(rows)
        product = torch._int_mm(quantized, values)
        return product.float().mul_(scales_of_rows).mul_(scales)

    return linear


INT8 = (
    Kernel("FBGEMM int8", lambda weight: _fbgemm(weight, 127), rows_step=4),
    Kernel("oneDNN int8", _onednn_int8),
    Kernel("FBGEMM int8, 7-bit activations", lambda weight: _fbgemm(weight, 63), rows_step=4),
    Kernel("int8 weights, bf16 activations", _weights_only),
    Kernel("PyTorch int8", _int_mm),
)
"""int8 kernels. Each is right on some processors, too slow, absent or wrong on others.

The first has the most even speed for few rows. oneDNN's with AMX instructions is faster for many
rows, but for few it takes up to twice as long when others use the memory."""


def replace(module: Any, name: str, linear: Linear) -> None:
    """Put `linear` in the place of a library's linear layer, whose weights may then be freed."""
    import torch

    class RowModule(torch.nn.Module):
        """Rows [..., in] to rows [..., out]."""

        weight = torch.empty(0)
        """Libraries ask a layer's weight for its type and device."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: Tensor) -> Tensor:
            shape = (*x.shape[:-1], width)
            if not x.numel():
                return x.new_empty(shape)
            return linear(x.reshape(-1, x.shape[-1])).view(shape)

    width = len(getattr(module, name).weight)
    setattr(module, name, RowModule())


def join(layers: Sequence[tuple[Any, str]]) -> Linear:
    """One fp32 layer for `layers` with the same input, given by their modules and names there.

    Its output is theirs, one after the other. A single large product is faster than small ones. The
    library's layers become parts of it, so that their weights may be freed.
    """
    import torch

    parts = [getattr(module, name) for module, name in layers]
    joined = fp32(
        torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
    )

    def part_of(start: int, end: int) -> Linear:
        return lambda rows: joined(rows)[:, start:end]

    start = 0
    for (module, name), part in zip(layers, parts, strict=True):
        end = start + len(part.weight)
        replace(module, name, part_of(start, end))
        start = end
    return joined
