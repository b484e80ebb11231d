"""SenseVoice in batches: as the library computes it, and to the last bit as each clip alone."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ipc.operations import Recording, Segment, Transcribe, Transcript
from model_procs.audio.pcm import Samples
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines.sensevoice import engine as module
from model_procs.engines.sensevoice.encoder import BestPath
from model_procs.engines.sensevoice.engine import SenseVoiceEngine
from model_procs.listening.base import RATE, finished

SECONDS = (0.05, 0.7, 3.0, 8.0, 10.0, 29.0)
OPTIONS = (("auto", True), ("ja", False), ("yue", True), ("nospeech", False))


def noise(seconds: float, seed: int = 0) -> Samples:
    sound = np.random.default_rng(seed).standard_normal(int(seconds * RATE)) * 0.1
    return sound.astype(np.float32)


def loaded(models: Path, **config: Any) -> SenseVoiceEngine:
    engine = SenseVoiceEngine(EngineConfig(models, **config))
    engine.load()
    engine.warm_up()
    return engine


@pytest.fixture(scope="module")
def exact(nano_models: Path) -> SenseVoiceEngine:
    return loaded(nano_models, options={"quantize": False})


@pytest.fixture(scope="module", params=[True, False], ids=["int8", "fp32"])
def engine(request: pytest.FixtureRequest, nano_models: Path) -> SenseVoiceEngine:
    return loaded(nano_models, threads=2, options={"quantize": request.param})


@pytest.fixture(scope="module")
def library(nano_models: Path) -> Any:
    """The library's own model, frontend and tokenizer."""
    return module._build(nano_models / "SenseVoiceSmall")


def finish(work: Generator[None, None, Any]) -> Any:
    with torch.inference_mode():
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value


def features(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 560, generator=torch.Generator().manual_seed(seed))


# Against the library


@pytest.mark.parametrize("frames", [4, 5, 60, 171, 500])
def test_frames_are_encoded_as_by_the_library(
    exact: SenseVoiceEngine, library: Any, frames: int
) -> None:
    model = library[0]
    clip = features(frames)
    with torch.inference_mode():
        expected = model.encoder(clip[None].clone(), torch.tensor([frames]))[0]
        logarithms = model.ctc.log_softmax(expected)[0]
    encoded = finish(exact._encoder.encode([clip]))[:frames]
    assert (encoded - expected[0]).norm() <= 1e-5 * expected.norm()
    (path,) = finish(exact._encoder.recognize([clip]))
    assert path.tokens == logarithms.argmax(-1).tolist()
    assert torch.allclose(torch.tensor(path.scores), logarithms.amax(-1), atol=1e-4)
    assert torch.allclose(path.tags, logarithms[:3], atol=1e-3)


@pytest.mark.parametrize(("language", "itn"), OPTIONS)
@pytest.mark.parametrize("seconds", [0.5, 3.0, 20.0])
def test_a_recording_is_heard_as_by_the_library(
    exact: SenseVoiceEngine, library: Any, seconds: float, language: str, itn: bool
) -> None:
    model, frontend, tokenizer = library
    samples = noise(seconds)
    torch.manual_seed(0)
    with torch.inference_mode():
        results, _ = model.inference(
            [torch.from_numpy(samples)],
            tokenizer=tokenizer,
            frontend=frontend,
            device="cpu",
            language=language,
            use_itn=itn,
        )
    assert hear(exact, samples, language, itn).raw == results[0]["text"]


def test_int8_is_close_to_fp32(nano_models: Path, exact: SenseVoiceEngine) -> None:
    quantized = loaded(nano_models)
    clip = features(100)
    one, two = (finish(e._encoder.encode([clip])) for e in (quantized, exact))
    assert 0 < (one - two).norm() < 0.05 * two.norm()


# Together and alone


def same(one: BestPath, two: BestPath) -> bool:
    return (
        one.tokens == two.tokens
        and one.scores == two.scores
        and bool(torch.equal(one.tags, two.tags))
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_clip_has_the_same_bits_in_every_company(
    engine: SenseVoiceEngine, seed: int, threads: int
) -> None:
    sizes = np.random.default_rng(seed).integers(5, 260, 4)
    clips = [features(int(size), index) for index, size in enumerate(sizes)]
    alone = [finish(engine._encoder.recognize([clip]))[0] for clip in clips]
    torch.set_num_threads(threads)
    try:
        for company in (clips, clips[::-1], clips[1:3], clips[2:] + clips[:1]):
            together = finish(engine._encoder.recognize(company))
            for clip, path in zip(company, together, strict=True):
                index = next(index for index, one in enumerate(clips) if one is clip)
                assert same(path, alone[index])
    finally:
        torch.set_num_threads(1)


def hear(
    engine: SenseVoiceEngine,
    samples: Samples,
    language: str = "auto",
    itn: bool = True,
    **options: Any,
) -> Transcript:
    operation = Transcribe(Recording(key=""), language=language, itn=itn, words=True, **options)
    return finished(engine, engine.transcribe(samples, operation, threading.Event()))


def hear_together(
    engine: SenseVoiceEngine, recordings: Sequence[Samples], stops: Sequence[threading.Event]
) -> list[Transcript | None]:
    """As a worker does. The last one is cancelled after the first step."""
    works: dict[int, Generator[Segment | None, None, Transcript]] = {}
    for index, samples in enumerate(recordings):
        language, itn = OPTIONS[index % len(OPTIONS)]
        operation = Transcribe(Recording(key=""), language=language, itn=itn, words=True)
        works[index] = engine.transcribe(samples, operation, stops[index])
    results: list[Transcript | None] = [None] * len(recordings)
    while works:
        for index, work in list(works.items()):
            try:
                while next(work) is not None:
                    pass
            except StopIteration as end:
                results[index] = end.value
                del works[index]
            except Cancelled:
                del works[index]
        engine.step()
        stops[-1].set()
    return results


def test_transcripts_are_the_same_together_and_alone(engine: SenseVoiceEngine) -> None:
    recordings = [noise(seconds, seed) for seed, seconds in enumerate((*SECONDS, 70.0))]
    stops = [threading.Event() for _ in recordings]
    together = hear_together(engine, [*recordings, noise(5)], [*stops, threading.Event()])
    options = [OPTIONS[index % len(OPTIONS)] for index in range(len(recordings))]
    alone = [hear(engine, one, *option) for one, option in zip(recordings, options, strict=True)]
    assert together[:-1] == alone
    assert len({transcript.text for transcript in alone}) == len(alone)


# Hotwords


def test_likely_tokens_change_nothing_else(engine: SenseVoiceEngine) -> None:
    clips = [features(70), features(5), features(130, 1)]
    plain = finish(engine._encoder.recognize(clips))
    some = finish(engine._encoder.recognize(clips, [0, 8, 3]))
    assert all(map(same, plain, some))
    assert plain[0].frames is plain[1].frames is some[0].frames is None
    for path, count in zip(some[1:], (8, 3), strict=True):
        assert [frame.tokens[0] for frame in path.frames] == path.tokens
        assert [frame.scores[0] for frame in path.frames] == path.scores
        assert {len(frame.tokens) for frame in path.frames} == {count}


def second_best(engine: SenseVoiceEngine, samples: Samples) -> str:
    """A text that was nearly heard in `samples`: that of the likeliest token that is not there."""
    clip = engine._features(samples, Transcribe(Recording(key="")))
    (path,) = finish(engine._encoder.recognize([clip], [8]))
    heard = set(path.tokens)
    nearly = [
        (score, token)
        for frame in path.frames[4:]
        for token, score in zip(frame.tokens, frame.scores, strict=True)
        if token not in heard and (engine._text_of(token) or "").strip()
    ]
    return (engine._text_of(max(nearly)[1]) or "").strip()


def test_a_hotword_is_heard_where_it_nearly_was(engine: SenseVoiceEngine) -> None:
    samples = noise(3)
    word = second_best(engine, samples)
    plain = hear(engine, samples)
    assert word not in plain.text
    biased = hear(engine, samples, hotwords=(word, "qqq"))
    assert word in biased.text
    assert biased.paralinguistics == plain.paralinguistics
    assert any(word in each.word for segment in biased.segments for each in segment.words or ())
    for one, two in zip(plain.segments, biased.segments, strict=False):
        assert (two.avg_logprob or 0) < 0 > (one.avg_logprob or 0)
    assert hear(engine, samples, hotwords=("qqq",)) == plain
    assert hear(engine, samples, hotwords=(word,), hotword_weight=0.001) == plain


def test_tags_and_parts_of_characters_spell_nothing(engine: SenseVoiceEngine) -> None:
    pieces = engine._tokenizer.sp
    assert engine._text_of(pieces.piece_to_id("<|en|>")) is None
    assert engine._text_of(pieces.unk_id()) is None
    assert engine._text_of(pieces.piece_to_id("</s>")) is None
    assert engine._text_of(pieces.piece_to_id("\u2581bada")) == " bada"


# Frames


def test_each_clip_gets_its_own_frames(exact: SenseVoiceEngine) -> None:
    clips = [features(70), features(3), features(130, 1)]
    paths = finish(exact._encoder.recognize(clips))
    assert [len(path.tokens) for path in paths] == [len(path.scores) for path in paths]
    assert [len(path.tokens) for path in paths] == [70, 3, 130]
    assert all(path.tags.shape == paths[0].tags.shape for path in paths)
    assert [path.tags.argmax(-1).tolist() for path in paths] == [path.tokens[:3] for path in paths]
