"""Which kernel linear layers get, and what a kernel must be able to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_procs import linears
from model_procs.linears import FP32, INT8, Kernel, Linear, choose, fp32, join, make, replace

SHAPES = ((1, 1024), (512, 32), (3, 64), (1024, 4096), (32, 32), (7, 13))
WEIGHT = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))

Build = Callable[[torch.Tensor], Linear]


def weight_of(*shape: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return values / math.sqrt(shape[1])


def right(weight: torch.Tensor) -> Linear:
    """Exact: row by row."""
    return FP32[-1].build(weight)


def overflows(weight: torch.Tensor) -> Linear:
    """Sums that stop at 16 bits of steps of 1/127, as some processors' do."""
    linear = right(weight)
    return lambda rows: linear(rows).clamp(-2, 2)


def overflows_below(weight: torch.Tensor) -> Linear:
    """The same, of negative products only."""
    linear = right(weight)
    return lambda rows: linear(rows.clamp_min(0))


def depends_on_company(weight: torch.Tensor) -> Linear:
    """One scale for all rows."""

    def linear(rows: torch.Tensor) -> torch.Tensor:
        scale = rows.abs().max() / 127
        return torch.stack([weight @ row for row in (rows / scale).round() * scale])

    return linear


def depends_on_place(weight: torch.Tensor) -> Linear:
    """The last bit of every third row differs."""

    def linear(rows: torch.Tensor) -> torch.Tensor:
        result = right(weight)(rows)
        result[2::3] *= 1 + 2**-23
        return result

    return linear


def depends_on_count(weight: torch.Tensor) -> Linear:
    """Another order of the sums from 64 rows on."""

    def linear(rows: torch.Tensor) -> torch.Tensor:
        half = weight.shape[1] // 2
        if len(rows) < 64:
            return right(weight)(rows)
        first = right(weight[:, :half].contiguous())(rows[:, :half])
        return first + right(weight[:, half:].contiguous())(rows[:, half:])

    return linear


def gives_nan(weight: torch.Tensor) -> Linear:
    """NaN for ordinary rows, right for the largest sums."""
    linear = right(weight)
    return lambda rows: linear(rows) if rows.abs().eq(1).all() else linear(rows) * torch.nan


def is_not_there(weight: torch.Tensor) -> Linear:
    raise RuntimeError("didn't find engine for operation")


def has_no_operation(weight: torch.Tensor) -> Linear:
    operation: Linear = torch.ops.quantized.no_such_operation  # AttributeError
    return operation


def fails_when_called(weight: torch.Tensor) -> Linear:
    def linear(rows: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("could not run on CPU")

    return linear


@pytest.mark.parametrize(
    "bad",
    [
        overflows,
        overflows_below,
        depends_on_company,
        depends_on_place,
        depends_on_count,
        gives_nan,
        is_not_there,
        has_no_operation,
        fails_when_called,
    ],
)
def test_a_kernel_that_is_wrong_here_is_not_chosen(bad: Build) -> None:
    kernels = [Kernel("bad", bad), Kernel("right", right)]
    assert choose(kernels, [WEIGHT], [1, 4]).name == "right"
    with pytest.raises(RuntimeError, match=r"no kernel for linear layers is exact .*: bad$"):
        choose(kernels[:1], [WEIGHT], [1, 4])


def test_every_shape_of_the_weights_is_checked() -> None:
    def wrong_for_one(weight: torch.Tensor) -> Linear:
        return depends_on_place(weight) if weight.shape == (48, 24) else right(weight)

    kernels = [Kernel("wrong for one", wrong_for_one), Kernel("right", right)]
    assert choose(kernels, [WEIGHT], [1]).name == "wrong for one"
    assert choose(kernels, [WEIGHT, weight_of(48, 24)], [1]).name == "right"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0, 1.0, 1.0], "first"),
        ([1.0, 0.95, 0.91], "first"),  # nearly equal
        ([1.0, 0.95, 0.89], "third"),
        ([1.0, 0.5, 0.46], "second"),  # and the third is nearly as fast as the second
        ([0.1, 0.5, 1.0], "first"),
        ([1.0, 0.5, 0.2], "third"),
    ],
)
def test_an_earlier_kernel_is_kept_unless_a_later_is_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], expected: str
) -> None:
    monkeypatch.setattr(linears, "_seconds", lambda *_: seconds)
    kernels = [Kernel(name, right) for name in ("first", "second", "third")]
    assert choose(kernels, [WEIGHT], [1]).name == expected


def test_time_is_measured_with_every_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []

    def noted(weight: torch.Tensor) -> Linear:
        linear = right(weight)

        def note(rows: torch.Tensor) -> torch.Tensor:
            if measuring:
                measured.append((tuple(weight.shape), len(rows)))
            return linear(rows)

        return note

    measuring = False
    seconds = linears._seconds

    def measure(*of: Any) -> list[float]:
        nonlocal measuring
        measuring = True
        return seconds(*of)

    monkeypatch.setattr(linears, "_seconds", measure)
    choose([Kernel("noted", noted)] * 2, [WEIGHT, WEIGHT, weight_of(8, 4)], (1, 4))
    once = [((32, 64), 1), ((32, 64), 4), ((8, 4), 1), ((8, 4), 4)]
    assert measured == once * 2 * linears._ROUNDS


def test_nothing_is_measured_for_a_kernel_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [Kernel("first", right), Kernel("second", right), Kernel("bad", overflows)]
    monkeypatch.setattr(linears, "_seconds", lambda *_: [1.0, 2.0])
    assert choose(kernels, [WEIGHT], [1]).name == "first"
    assert choose(kernels, [WEIGHT], [1], "bad").name == "first"
    assert choose(kernels, [WEIGHT], [1], "unknown").name == "first"
    monkeypatch.setattr(linears, "_seconds", None)
    assert choose(kernels, [WEIGHT], [1], "second").name == "second"


def test_a_hopeless_kernel_is_tried_a_few_times_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    called = 0

    def hopeless(weight: torch.Tensor) -> Linear:
        linear = right(weight)

        def slow(rows: torch.Tensor) -> torch.Tensor:
            nonlocal clock, called
            called += 1
            clock += 1.0
            return linear(rows)

        return slow

    monkeypatch.setattr("model_procs.linears.time.perf_counter", lambda: clock)
    kernels = [Kernel("right", right), Kernel("hopeless", hopeless)]
    assert choose(kernels, [WEIGHT, weight_of(8, 4)], [1, 4]).name == "right"
    assert called == 3
    # Where it is the only one it serves.
    assert choose(kernels[1:], [WEIGHT], [1, 4]).name == "hopeless"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_fp32_is_exact_for_odd_shapes(shape: tuple[int, int], with_bias: bool) -> None:
    weight = weight_of(*shape)
    bias = torch.randn(shape[0]) if with_bias else None
    linear = fp32(weight, bias)
    rows = torch.randn(150, shape[1])
    expected = torch.nn.functional.linear(rows, weight, bias)
    torch.testing.assert_close(linear(rows), expected, rtol=1e-5, atol=1e-5)
    alone = torch.cat([linear(row[None]) for row in rows])
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 31, 64, 107, 150):
        assert torch.equal(linear(rows[:count]), alone[:count]), count
        assert torch.equal(linear(rows[-count:]), alone[-count:]), count


@given(st.sampled_from(SHAPES), st.data())
@settings(max_examples=25)
def test_fp32_is_exact_wherever_a_row_is(shape: tuple[int, int], data: st.DataObject) -> None:
    linear = fp32(weight_of(*shape))
    rows = torch.randn(40, shape[1], generator=torch.Generator().manual_seed(2))
    alone = torch.cat([linear(row[None]) for row in rows])
    which = data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=40))
    assert torch.equal(linear(rows[which]), alone[which])


@cache
def usable() -> list[Kernel]:
    """The int8 kernels that are exact here, by the check that `choose` makes."""
    found = []
    for kernel in INT8:
        try:
            found.append(choose([kernel], [WEIGHT], [1]))
        except RuntimeError:
            continue
    return found


def test_int8_is_nearly_fp32() -> None:
    kernels = usable()
    assert kernels
    for kernel in kernels:
        for shape in ((64, 32), (1024, 1024), (96, 112)):
            weight, rows = weight_of(*shape), torch.randn(9, shape[1])
            bias = torch.randn(shape[0])
            expected = torch.nn.functional.linear(rows, weight, bias)
            difference = make(kernel, weight, bias)(rows) - expected
            assert difference.norm() < 0.02 * expected.norm(), (kernel.name, shape)


def test_int8_takes_rows_of_zeros_and_of_very_different_sizes() -> None:
    weight = weight_of(32, 64)
    rows = torch.randn(6, 64) * torch.tensor([0, 1e-8, 1e-3, 1, 1e3, 1e6])[:, None]
    expected = torch.nn.functional.linear(rows, weight)
    for kernel in usable():
        result = make(kernel, weight)(rows)
        assert torch.equal(result[0], torch.zeros(32)), kernel.name
        errors = (result - expected)[1:].norm(dim=1) / expected[1:].norm(dim=1)
        assert errors.max() < 0.03, kernel.name


def test_a_layer_does_not_change_with_what_it_was_made_of() -> None:
    for kernel in (*FP32, *usable()):
        weight, bias = weight_of(32, 64), torch.randn(32)
        linear = make(kernel, weight, bias)
        rows = torch.randn(5, 64)
        kept = rows.clone()
        first = linear(rows)
        assert torch.equal(rows, kept), kernel.name
        copy = first.clone()
        weight.zero_()
        bias.zero_()
        assert torch.equal(linear(rows), copy), kernel.name
        assert torch.equal(first, copy), kernel.name


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (1, 0), (0,), (2, 1, 4)])
def test_a_replaced_layer_takes_rows_in_every_arrangement(leading: tuple[int, ...]) -> None:
    module = torch.nn.Module()
    module.layer = torch.nn.Linear(64, 32)
    original = module.layer
    assert isinstance(original, torch.nn.Linear)
    replace(module, "layer", fp32(original.weight, original.bias))
    x = torch.randn(*leading, 64)
    result = module.layer(x)
    assert result.shape == (*leading, 32)
    torch.testing.assert_close(result, original(x).detach(), rtol=1e-5, atol=1e-5)
    assert sum(parameter.numel() for parameter in module.parameters()) == 0


def test_a_replaced_layer_takes_what_is_not_contiguous() -> None:
    module = torch.nn.Module()
    module.layer = torch.nn.Linear(64, 32, bias=False)
    weight = module.layer.weight
    replace(module, "layer", fp32(weight))
    x = torch.randn(64, 7, 3).permute(1, 2, 0)
    expected = torch.nn.functional.linear(x, weight).detach()
    torch.testing.assert_close(module.layer(x), expected, rtol=1e-5, atol=1e-5)


def test_layers_with_the_same_input_are_joined() -> None:
    layers = [torch.nn.Linear(64, size) for size in (32, 8, 32)]
    module = torch.nn.Sequential(*layers)
    rows = torch.randn(2, 3, 64)
    with torch.inference_mode():
        expected = [layer(rows) for layer in layers]
        joined = join([(module, str(index)) for index in range(3)])
        parts = torch.split(joined(rows.flatten(0, 1)).view(2, 3, -1), [32, 8, 32], -1)
        for one, part, layer in zip(expected, parts, module, strict=True):
            torch.testing.assert_close(part, one, rtol=1e-5, atol=1e-5)
            assert torch.equal(layer(rows), part)


def test_fbgemm_is_one_call_and_without_torchscript_many_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    kernel = next(kernel for kernel in INT8 if kernel.name == "FBGEMM int8")
    linears._fbgemm_product.cache_clear()
    assert isinstance(linears._fbgemm_product(), torch.jit.ScriptFunction)
    scripted = kernel.build(WEIGHT)(rows)

    def gone(_: object) -> None:
        raise RuntimeError("TorchScript has been removed")

    with monkeypatch.context() as patched:
        patched.setattr(torch.jit, "script", gone)
        linears._fbgemm_product.cache_clear()
        assert not isinstance(linears._fbgemm_product(), torch.jit.ScriptFunction)
        assert torch.equal(kernel.build(WEIGHT)(rows), scripted)
    linears._fbgemm_product.cache_clear()
