"""Pocket TTS in batches: the same bits in every company, and the library's numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from ipc.operations import Sampling, Speak, Voice
from model_procs.audio.pcm import Samples
from model_procs.engines.pocket.batch import Listener
from model_procs.engines.pocket.engine import PocketEngine
from model_procs.engines.pocket.flow_lm import Run
from model_procs.engines.pocket.transformer import table
from model_procs.heap import give_back
from model_procs.weights.synthetic.pocket import write_pocket
from tests.support.outputs import pieces_of
from tests.support.pocket import (
    FOLDER,
    SENTENCES,
    Streams,
    Wanted,
    alone,
    decoded_frame_by_frame,
    decoded_in_company,
    fed,
    in_company,
    library,
    loaded,
    new_run,
    speakers,
    spoken_by_library,
    together,
    write_odd_checkpoint,
)

ROUNDING = 1e-5
"""The most by which fp32 may differ from the library's."""

NEVER = 1000.0
"""A threshold with which a run does not end by itself."""

SMALL_ENCODER: dict[str, Any] = {
    "seanet": {"dimension": 32, "n_filters": 4},
    "transformer": {
        "d_model": 32,
        "num_heads": 2,
        "num_layers": 1,
        "dim_feedforward": 64,
        "input_dimension": 32,
        "output_dimensions": [32],
    },
}
"""The encoder of a published configuration is large, and not what is compared here."""

SMALL_LM: dict[str, Any] = {
    "flow": {"depth": 2, "dim": 64},
    "transformer": {"d_model": 128, "hidden_scale": 2, "num_heads": 4, "num_layers": 2},
    "lookup_table": {"dim": 128},
}

LOUD_TRANSFORMER = {"decoder_transformer": {"layer_scale": 0.5}}
"""With the published 0.01, what an attention computes would hardly be heard."""


@pytest.fixture(scope="module")
def odd_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint whose every parameter counts."""
    models = tmp_path_factory.mktemp("odd")
    encoder = SMALL_ENCODER | {"outer_dim": 32, "quantizer": {"output_dimension": 32}}
    encoder["transformer"] = encoder["transformer"] | {"layer_scale": 0.5}
    write_odd_checkpoint(models, "english", {"flow_lm": SMALL_LM, "mimi": encoder})
    return models


@pytest.fixture(scope="module")
def full_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    models = tmp_path_factory.mktemp("full")
    folder = models / FOLDER
    folder.mkdir()
    write_pocket(folder, "full")
    yield models
    (folder / "model.safetensors").unlink()  # 438 MB, which pytest would keep


@pytest.fixture(scope="module")
def full(full_models: Path) -> Callable[[bool], PocketEngine]:
    """The engine with weights of the published size, with int8 or without."""
    engines: dict[bool, PocketEngine] = {}

    def get(quantize: bool) -> PocketEngine:
        if quantize not in engines:
            engines[quantize] = loaded(full_models, quantize=quantize)
        return engines[quantize]

    return get


# Company


def check_latents(engine: PocketEngine, wanted: list[Wanted], random: Random) -> None:
    lm = engine._batch._lm
    expected = [alone(lm, new_run(engine, one)) for one in wanted]
    got = in_company(lm, [new_run(engine, one) for one in wanted], random)
    for one, theirs, ours in zip(wanted, expected, got, strict=True):
        assert torch.equal(theirs, ours), one


def check_samples(engine: PocketEngine, lengths: list[int], random: Random) -> None:
    mimi = engine._batch._mimi
    generator = torch.Generator().manual_seed(random.randrange(1000))
    streams = [torch.randn(length, 32, generator=generator) for length in lengths]
    expected = [decoded_frame_by_frame(mimi, stream) for stream in streams]
    got = decoded_in_company(mimi, streams, random)
    for length, theirs, ours in zip(lengths, expected, got, strict=True):
        assert torch.equal(theirs, ours), length


@pytest.mark.parametrize("quantize", [False, True])
def test_a_run_has_the_same_bits_in_every_company(odd_models: Path, quantize: bool) -> None:
    engine = loaded(odd_models, quantize=quantize)
    for draw in range(3):
        random = Random(draw)
        check_latents(engine, speakers(random, 40), random)
        check_samples(engine, [random.randint(1, 100) for _ in range(8)], random)


@pytest.mark.parametrize("quantize", [False, True])
def test_also_with_weights_of_the_published_size(
    full: Callable[[bool], PocketEngine], quantize: bool
) -> None:
    random = Random(1)
    engine = full(quantize)
    check_latents(engine, speakers(random, 10), random)
    check_samples(engine, [1, 2, 3, 4, 5, 6, 7, 52], random)


def test_a_longer_table_of_positions_has_the_same_bits() -> None:
    for dim in (32, 64, 128):
        assert torch.equal(table(1024, dim, 10_000), table(2 * 1337, dim, 10_000)[:1024])


@pytest.fixture(scope="module")
def by_threads(odd_models: Path) -> dict[int, PocketEngine]:
    engines = {threads: loaded(odd_models) for threads in (1, 2, 3)}
    for threads, engine in engines.items():
        engine._batch.start(threads)
    return engines


SHORT = -4.3
"""A threshold with which runs soon end by themselves."""


def test_speech_is_the_same_with_any_number_of_threads_and_alone(
    by_threads: dict[int, PocketEngine],
) -> None:
    operations = [
        Speak(
            f"{words} So it is.",
            Voice(builtin=("alba", "marius")[number % 2]),
            Sampling(number, 0.1 * number, decode_steps=1 + number % 3, eos_threshold=SHORT),
            response_format="pcm",
            streamed=True,
        )
        for number, words in enumerate(SENTENCES)
    ]

    def spoken(engine: PocketEngine, chosen: list[Speak]) -> list[bytes]:
        outputs = [engine.run(operation, threading.Event()) for operation in chosen]
        return [b"".join(items) for items in together(engine, outputs)]

    expected = [spoken(by_threads[1], [operation])[0] for operation in operations]
    assert len(set(expected)) == len(expected)
    for engine in by_threads.values():
        assert spoken(engine, operations) == expected
    assert spoken(by_threads[3], operations[:1]) == expected[:1]


def test_so_are_the_samples_before_they_are_rounded(by_threads: dict[int, PocketEngine]) -> None:
    def spoken(engine: PocketEngine, seeds: Sequence[int]) -> list[Samples]:
        outputs = [
            engine.synthesize(
                SENTENCES[seed],
                engine.load_builtin_voice("alba"),
                Sampling(seed, eos_threshold=SHORT),
                threading.Event(),
            )
            for seed in seeds
        ]
        return [np.concatenate(pieces) for pieces in together(engine, outputs)]

    expected = [spoken(by_threads[1], [seed])[0] for seed in range(8)]
    for threads in (2, 3):
        assert all(map(np.array_equal, expected, spoken(by_threads[threads], range(8))))


# The library


def check_against_library(models: Path, *, frames: int = 70, steps: int = 1) -> None:
    """Runs are the library's: one cut off, one that ends by itself, and the shortest there is."""
    engine, model = loaded(models, quantize=False), library(models)
    assert engine._batch._lm.min_frames == model._MIN_FRAMES_BEFORE_EOS
    voice = model.get_state_for_audio_prompt(
        0.1 * torch.randn(1, 24_000, generator=torch.Generator().manual_seed(0))
    )
    scores: list[float] = []
    model.flow_lm.out_eos.register_forward_hook(
        lambda _, __, score: scores.extend(score.flatten().tolist())
    )

    def check(eos_threshold: float) -> Run:
        """The length is the library's, and so are the numbers."""
        sampling = Sampling(seed=3, decode_steps=steps, eos_threshold=eos_threshold)
        generators = (torch.Generator().manual_seed(3) for _ in range(2))
        run, again = (
            engine._run(SENTENCES[5], engine._prefix(voice), sampling, generator)
            for generator in generators
        )
        run.most_frames = again.most_frames = frames
        theirs = spoken_by_library(model, voice, run, seed=3)
        # One more than there are, to see that it ends.
        padded = torch.cat([theirs.latents, theirs.latents[-1:]])
        ours = fed(engine._batch._lm, again, padded)
        assert ours.shape == theirs.latents.shape
        assert again.over
        assert (ours - theirs.latents).abs().max() < ROUNDING
        check_sound(engine, theirs)
        run.frame = len(theirs.latents)
        return run

    assert check(NEVER).frame == frames
    first = model._MIN_FRAMES_BEFORE_EOS
    of_frames = scores[-frames:]
    # The last frame whose score is higher than those before.
    last = max(
        frame
        for frame in range(first + 1, frames - 5)
        if of_frames[frame] > max(of_frames[first:frame]) + 1e-3
    )
    run = check(of_frames[last] - 5e-4)
    assert run.frame == last + run.frames_after_eos
    run = check(-NEVER)
    assert run.frame == first + run.frames_after_eos


def check_sound(engine: PocketEngine, theirs: Streams) -> None:
    samples = decoded_frame_by_frame(engine._batch._mimi, theirs.latents)
    assert samples.shape == theirs.samples.shape
    assert theirs.samples.std() > 0.01
    assert (samples - theirs.samples).abs().max() < ROUNDING


@pytest.mark.parametrize("steps", [1, 3])
def test_fp32_has_the_numbers_of_the_library(odd_models: Path, steps: int) -> None:
    check_against_library(odd_models, steps=steps)


@pytest.mark.parametrize(
    ("name", "lm", "steps"),
    [
        ("english_2m_2026-10", {}, 1),
        ("english_2m_2026-10", {"flow": {"type": "lsd"}}, 2),
        ("english_2m_2026-10", {"flow": {"type": "flow_matching"}}, 4),
        ("english_7m_2026-10", {"transformer": {"num_layers": 2}}, 1),
        ("english_18m_refl_2026-10", {"transformer": {"num_layers": 2}}, 1),
        ("english_drifting_26-09", SMALL_LM, 1),
    ],
)
def test_so_have_the_other_published_configurations(
    tmp_path: Path, name: str, lm: dict[str, Any], steps: int
) -> None:
    mimi = SMALL_ENCODER | LOUD_TRANSFORMER
    if "drifting" in name:  # its decoder is as its encoder
        mimi = SMALL_ENCODER | {"outer_dim": 32, "quantizer": {"output_dimension": 32}}
    write_odd_checkpoint(tmp_path, name, {"flow_lm": lm, "mimi": mimi})
    check_against_library(tmp_path, frames=40, steps=steps)
    engine = loaded(tmp_path)
    random = Random(0)
    check_latents(engine, speakers(random, 12), random)
    check_samples(engine, [1, 2, 3, 4, 5, 6, 7, 30], random)


def test_fp32_has_the_numbers_of_the_library_at_the_published_size(
    full: Callable[[bool], PocketEngine], full_models: Path
) -> None:
    engine, model = full(False), library(full_models)
    voice = engine.load_builtin_voice("alba")
    wanted = Wanted(SENTENCES[5], "alba", Sampling(7, eos_threshold=NEVER), 30)
    theirs = spoken_by_library(model, voice, new_run(engine, wanted), seed=7)
    ours = fed(engine._batch._lm, new_run(engine, wanted), theirs.latents)
    assert ours.shape == theirs.latents.shape
    assert (ours - theirs.latents).abs().max() < ROUNDING
    check_sound(engine, theirs)


def test_int8_is_within_a_hundredth_of_fp32(full: Callable[[bool], PocketEngine]) -> None:
    wanted = Wanted(SENTENCES[5], "alba", Sampling(7, eos_threshold=NEVER), 30)
    exact = alone(full(False)._batch._lm, new_run(full(False), wanted))
    ours = fed(full(True)._batch._lm, new_run(full(True), wanted), exact)
    errors = (ours - exact).norm(dim=1) / exact.norm(dim=1)
    kernel = full(True).facts()["linear"]
    print(f"{kernel}: mean error {errors.mean():.2%}, at most {errors.max():.2%}")
    assert 0 < errors.max() < 0.01

    latents = torch.stack(list(exact))
    sound, rounded = (
        decoded_frame_by_frame(full(quantize)._batch._mimi, latents).view(len(latents), -1)
        for quantize in (False, True)
    )
    errors = (rounded - sound).norm(dim=1) / sound.norm(dim=1)
    decibels = 20 * torch.log10(sound.norm() / (rounded - sound).norm())
    print(f"the sound of the same latents: at most {errors.max():.2%}, {decibels:.0f} dB")
    assert 0 < errors.max() < 0.01


# Joins and memory


def test_nothing_clicks_between_runs(by_threads: dict[int, PocketEngine]) -> None:
    engine = by_threads[2]
    for seed in range(3):
        sentences = [
            np.concatenate(
                list(
                    pieces_of(
                        engine,
                        words,
                        engine.load_builtin_voice("alba"),
                        Sampling(seed),
                    )
                )
            )
            for words in SENTENCES[:5]
        ]
        inside = max(np.abs(np.diff(sound)).max() for sound in sentences)
        for before, after in pairwise(sentences):
            assert after[0] == 0
            assert np.abs(before[-1] - after[0]) <= inside


def megabytes() -> float:
    """The memory of this process."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    (line,) = (line for line in rollup.splitlines() if line.startswith("Rss:"))
    return int(line.split()[1]) / 1024


def test_a_run_gives_its_memory_back(full: Callable[[bool], PocketEngine]) -> None:
    engine = full(True)
    batch, voice = engine._batch, engine.load_builtin_voice("alba")

    def spoken(frames: int) -> Any:
        wanted = Wanted(SENTENCES[5], "alba", Sampling(7, eos_threshold=NEVER), frames)
        run = new_run(engine, wanted, voice)
        speech = batch.join(run, Listener())
        done = False
        while not done:
            batch.wait()
            _, done = batch.take(speech)
        assert run.frame == frames
        return speech

    batch.leave(spoken(40))  # scratch memory, which stays
    give_back()
    before = megabytes()
    speech = spoken(200)
    give_back()
    during = megabytes()
    batch.leave(speech)
    del speech
    give_back()
    after = megabytes()
    print(f"16 s of speech: {during - before:.1f} MB, {after - before:.1f} MB of them stay")
    assert 5 < during - before < 20
    assert after - before < 2
