"""Recordings that somebody has spoilt: cut, flipped, with lies in their headers, spliced."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import soundfile

from tests.support.formats import FORMATS, RARE_FORMATS, encode

_CLAIMS = (0, 1, 0x7F, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
_HEADER = 160
"""The bytes in which a container says the most about itself."""


def chirp() -> bytes:
    """A fifth of a second of a chirp, as a WAV."""
    rate = 16_000
    time = np.arange(rate // 5) / rate
    file = io.BytesIO()
    soundfile.write(file, 0.4 * np.sin(2 * np.pi * (200 + 900 * time) * time), rate, format="WAV")
    return file.getvalue()


@cache
def recordings() -> dict[str, bytes]:
    """The chirp in each format."""
    wav = chirp()
    return {"wav": wav} | {name: encode(wav, name) for name in (*FORMATS, *RARE_FORMATS)}


def spoil(recordings: Mapping[str, bytes], seed: int) -> tuple[str, bytes]:
    """What has been done to which recording, and the bytes; the same for the same seed."""
    rng = random.Random(seed)
    name = rng.choice(sorted(recordings))
    data = bytearray(recordings[name])
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        way = rng.choice(_WAYS)
        way(data, recordings, rng)
        done.append(way.__name__.strip("_"))
    return f"{name}: {', '.join(done)} (seed {seed})", bytes(data)


Way = Callable[[bytearray, Mapping[str, bytes], random.Random], None]


def _truncate(data: bytearray, _others: Mapping[str, bytes], rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _flip_bits(data: bytearray, _others: Mapping[str, bytes], rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 30, 300))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flip_header(data: bytearray, _others: Mapping[str, bytes], rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        if data:
            data[rng.randrange(min(_HEADER, len(data)))] = rng.randrange(256)


def _claim(data: bytearray, _others: Mapping[str, bytes], rng: random.Random) -> None:
    size = rng.choice((2, 4, 4, 8))
    end = min(_HEADER, len(data)) if rng.random() < 0.7 else len(data)
    claim = rng.choice((*_CLAIMS, rng.randrange(1 << 32)))
    claimed = claim.to_bytes(8, "little")[:size]
    start = rng.randrange(end + 1)
    data[start : start + size] = claimed if rng.random() < 0.5 else claimed[::-1]


def _wrong_header(data: bytearray, others: Mapping[str, bytes], rng: random.Random) -> None:
    size = rng.choice((4, 8, 12, 16, 44, 100))
    data[:size] = others[rng.choice(sorted(others))][:size]


def _splice(data: bytearray, others: Mapping[str, bytes], rng: random.Random) -> None:
    other = others[rng.choice(sorted(others))]
    start = rng.randrange(len(other))
    piece = other[start : start + rng.choice((100, 1_000, 100_000))]
    at = rng.randrange(len(data) + 1)
    cut = rng.choice((0, len(piece), len(data)))
    data[at : at + cut] = piece


def _repeat(data: bytearray, _others: Mapping[str, bytes], rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((8, 200, 5_000))]
    data[start:start] = piece * rng.choice((1, 2, 20))


def _cut_out(data: bytearray, _others: Mapping[str, bytes], rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 4, 100, 3_000))]


def _blank(data: bytearray, _others: Mapping[str, bytes], rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    size = min(len(data) - start, rng.choice((4, 64, 2_000)))
    data[start : start + size] = rng.choice((b"\0", b"\xff", b"\x7f")) * size


def _insert_noise(data: bytearray, _others: Mapping[str, bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 4, 500)))


_WAYS: tuple[Way, ...] = (
    _truncate,
    _flip_bits,
    _flip_header,
    _claim,
    _claim,
    _wrong_header,
    _splice,
    _repeat,
    _cut_out,
    _blank,
    _insert_noise,
)
