"""Pocket TTS for tests: checkpoints that show differences, runs, and the library's own stream."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from ipc.operations import Sampling
from model_procs.engine import EngineConfig
from model_procs.engines.pocket.engine import PocketEngine, _local_config
from model_procs.engines.pocket.flow_lm import FlowLM, Run
from model_procs.engines.pocket.mimi import Mimi, Sound
from model_procs.weights.synthetic.pocket import write_checkpoint

FOLDER = "pocket-tts"

SENTENCES = (
    "Hello.",
    "One two three four.",
    "The quick brown fox jumps over the lazy dog.",
    "It was 1,000.50 in all, she said, and left.",
    "Where do you go from here, now that the long road has come to its end at the sea?",
    "A list: apples, pears, plums, cherries, quinces, figs, nuts, and one very old lemon.",
    "Why?",
    "Pack my box with five dozen liquor jugs!",
)


class Wanted(NamedTuple):
    """What one of several speakers says."""

    words: str
    voice: str
    sampling: Sampling
    most_frames: int


class Streams(NamedTuple):
    """What the library made of a run: latents [frames, ldim] and samples."""

    latents: Any
    samples: Any


def loaded(models: Path, **options: Any) -> PocketEngine:
    """The engine with the weights in `models`/pocket-tts."""
    engine = PocketEngine(EngineConfig(models, options=options, live=8))
    engine.load()
    return engine


def speakers(random: Random, most_frames: int) -> list[Wanted]:
    """Eight who differ in everything in which requests can."""
    return [
        Wanted(
            words,
            random.choice(("alba", "marius")),
            Sampling(
                seed=random.randrange(1000),
                temperature=random.choice((0.0, 0.3, 0.9)),
                decode_steps=random.choice((1, 1, 2, 3)),
                eos_threshold=random.choice((-4.0, 1000.0)),
            ),
            random.randint(most_frames // 2, most_frames),
        )
        for words in random.sample(SENTENCES, len(SENTENCES))
    ]


def new_run(engine: PocketEngine, wanted: Wanted, voice: Any = None) -> Run:
    """A run that has not begun, as the engine makes it; `voice` saves loading the one wanted."""
    import torch

    prefix = engine._prefix(voice or engine.load_builtin_voice(wanted.voice))
    generator = torch.Generator().manual_seed(wanted.sampling.seed)
    run = engine._run(wanted.words, prefix, wanted.sampling, generator)
    run.most_frames = min(run.most_frames, wanted.most_frames)
    return run


def alone(lm: FlowLM, run: Run) -> Any:
    """The latents [frames, ldim] of a run by itself."""
    return in_company(lm, [run], Random(0))[0]


def in_company(lm: FlowLM, runs: Sequence[Run], random: Random) -> list[Any]:
    """The latents of each of `runs`, which join at random steps and sit some of them out."""
    import torch

    waiting = list(runs)
    present: list[Run] = []
    with torch.inference_mode():
        while waiting or present:
            while waiting and (not present or random.random() < 0.3):
                lm.open(waiting[-1])
                present.append(waiting.pop())
            lm.step(random.sample(present, random.randint(1, len(present))))
            present = [run for run in present if not run.over]
    return [torch.stack(list(run.latents)) for run in runs]


def decoded_frame_by_frame(mimi: Mimi, latents: Any) -> Any:
    """The samples of a run by itself."""
    import torch

    sound = mimi.open()
    with torch.inference_mode():
        pieces = [mimi.decode([sound], frame[None, None])[0] for frame in latents]
    mimi.close(sound)
    return torch.cat(pieces)


def decoded_in_company(mimi: Mimi, streams: Sequence[Any], random: Random) -> list[Any]:
    """The samples of each of `streams` of latents, in random company and blocks of 1 to 4."""
    import torch

    waiting = list(range(len(streams)))
    present: dict[int, Sound] = {}
    taken = [0] * len(streams)
    pieces: list[list[Any]] = [[] for _ in streams]
    with torch.inference_mode():
        while waiting or present:
            while waiting and (not present or random.random() < 0.3):
                present[waiting.pop()] = mimi.open()
            frames = random.randint(1, 4)
            having = [one for one in present if taken[one] + frames <= len(streams[one])]
            together = random.sample(having, random.randint(min(1, len(having)), len(having)))
            if together:
                block = torch.stack(
                    [streams[one][taken[one] : taken[one] + frames] for one in together]
                )
                sounds = [present[one] for one in together]
                for one, samples in zip(together, mimi.decode(sounds, block), strict=True):
                    pieces[one].append(samples)
                    taken[one] += frames
            for one in [one for one in present if taken[one] == len(streams[one])]:
                mimi.close(present.pop(one))
    return [torch.cat(parts) for parts in pieces]


def library(models: Path) -> Any:
    """The library's `TTSModel` with the same weights as the engine's."""
    from pocket_tts import TTSModel

    with _local_config(models / FOLDER) as config:
        return TTSModel.load_model(config=config).eval()


def spoken_by_library(model: Any, voice: Any, run: Run, seed: int) -> Streams:
    """What the library makes of `run`: its own loop of latents, and its own decoding of them."""
    import torch

    latents: list[Any] = []
    decode = model._decode_audio_worker

    def note(latents_queue: Any, *arguments: Any) -> None:
        latents.extend(iter(latents_queue.get, None))
        again: queue.Queue[Any] = queue.Queue()
        for latent in (*latents, None):
            again.put(latent)
        decode(again, *arguments)

    model.temp, model.sampler_decode_steps = run.temperature, run.decode_steps
    model.eos_threshold = run.eos_threshold
    model._estimate_max_gen_len = lambda _: run.most_frames
    model.flow_lm.conditioner.prepare = lambda _: run.tokens[None]
    model._decode_audio_worker = note
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pieces = list(
                model._generate_audio_stream_short_text(
                    voice, "", run.frames_after_eos, copy_state=True, stop=threading.Event()
                )
            )
    finally:
        for name in ("_estimate_max_gen_len", "_decode_audio_worker"):
            delattr(model, name)
        del model.flow_lm.conditioner.prepare
    return Streams(torch.cat(latents)[:, 0], torch.cat(pieces))


def fed(lm: FlowLM, run: Run, latents: Any) -> Any:
    """The latents that `lm` makes when the ones before are those of `latents`; no more of them.

    There are fewer when the run ends earlier.
    """
    import torch

    lm.open(run)
    made: list[Any] = []
    with torch.inference_mode():
        while not run.over and len(made) < len(latents):
            lm.step([run])
            while run.latents:
                made.append(run.latents.popleft())
                run.latent = latents[len(made) - 1]
    return torch.stack(made)


def write_odd_checkpoint(models: Path, name: str, changes: dict[str, Any]) -> None:
    """A checkpoint with the library's configuration `name`, all of whose parameters do something.

    Biases, scales of norms and the like are random; in a fresh model they are zeros and ones, and
    who forgets one computes the same.
    """
    import torch
    from safetensors.torch import load_file, save_file

    folder = models / FOLDER
    folder.mkdir(parents=True)
    write_checkpoint(folder, name, changes)
    file = folder / "model.safetensors"
    state = load_file(file)
    generator = torch.Generator().manual_seed(0)
    for key, value in state.items():
        if value.dim() == 1 and len(value) > 1 and not key.endswith("freqs"):
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
    save_file(state, file)


def together(engine: PocketEngine, outputs: Sequence[Generator[Any, None, Any]]) -> list[list[Any]]:
    """All that each of `outputs` yields, while they speak at the same time."""
    items: list[list[Any]] = [[] for _ in outputs]
    open_ = list(range(len(outputs)))
    while open_:
        news = False
        for one in list(open_):
            try:
                item = next(outputs[one])
            except StopIteration:
                open_.remove(one)
                news = True
                continue
            if item is not None:
                items[one].append(item)
                news = True
        if open_ and not news:
            engine.step()
    return items
