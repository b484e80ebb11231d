"""Guidance of Pocket TTS, on the numbers of a small random model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from ipc.operations import Sampling
from model_procs.engines.pocket.engine import PocketEngine
from model_procs.engines.pocket.flow_lm import FlowLM, Prefix, Run
from model_procs.weights.synthetic.pocket import NANO
from tests.support.pocket import (
    Wanted,
    alone,
    in_company,
    library,
    loaded,
    new_run,
    speakers,
    write_odd_checkpoint,
)

NEVER = 1000.0
ROUNDING = 1e-4
SMALL: dict[str, Any] = {
    "flow_lm": {
        "flow": {"depth": 2, "dim": 64},
        "transformer": {"d_model": 128, "hidden_scale": 2, "num_heads": 4, "num_layers": 2},
        "lookup_table": {"dim": 128},
    },
    "mimi": NANO["mimi"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guided")
    write_odd_checkpoint(folder, "english", SMALL)
    return folder


@pytest.fixture(scope="module")
def exact(models: Path) -> PocketEngine:
    return loaded(models, quantize=False)


@pytest.fixture(scope="module")
def int8(models: Path) -> PocketEngine:
    return loaded(models)


def wanted(guidance: float | None, frames: int = 12) -> Wanted:
    sampling = Sampling(5, 0.4, eos_threshold=NEVER, cfg_guidance=guidance)
    return Wanted("It was 1,000.50 in all, she said, and left.", "alba", sampling, frames)


class Told:
    """Notes what an LM makes latents from."""

    def __init__(self, lm: FlowLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outputs: list[Any] = []
        sample = lm._flow.sample

        def noting(hidden: Any, noise: Any, steps: int) -> Any:
            self.outputs.append(hidden.clone())
            return sample(hidden, noise, steps)

        monkeypatch.setattr(lm._flow, "sample", noting)

    def take(self) -> Any:
        """All rows since the last call."""
        rows, self.outputs = torch.cat(self.outputs), []
        return rows


def steps(lm: FlowLM, run: Run, latents: Any) -> None:
    """As many steps as there are latents, each after the one of `latents` before."""
    lm.open(run)
    with torch.inference_mode():
        for latent in latents:
            while not run.latents:
                lm.step([run])
            run.latents.clear()
            run.latent = latent


def test_one_is_off_to_the_last_bit(int8: PocketEngine) -> None:
    lm = int8._batch._lm
    run = new_run(int8, wanted(1.0))
    got = alone(lm, run)
    assert run.null_context is None
    assert torch.equal(got, alone(lm, new_run(int8, wanted(None))))
    assert not torch.equal(got, alone(lm, new_run(int8, wanted(1.5))))


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("guidance", [1.5, 2.0, 3.0])
def test_a_latent_is_made_from_both_outputs(
    exact: PocketEngine,
    int8: PocketEngine,
    quantize: bool,
    guidance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """z_null + guidance * (z - z_null), with each z from a run that has nothing but its row."""
    engine = int8 if quantize else exact
    lm = engine._batch._lm
    latents = alone(lm, new_run(engine, wanted(guidance)))
    told = Told(lm, monkeypatch)
    steps(lm, new_run(engine, wanted(guidance)), latents)
    combined = told.take()
    steps(lm, new_run(engine, wanted(None)), latents)
    conditional = told.take()
    null = new_run(engine, wanted(None))
    null.tokens, null.latent = null.tokens[:0], engine._model.flow_lm.bos_emb.detach()
    assert engine._null is not None
    null.prefix = engine._null
    steps(lm, null, latents)
    unconditional = told.take()
    assert len(combined) == len(latents)
    assert torch.equal(combined, unconditional + guidance * (conditional - unconditional))
    assert (combined - conditional).abs().max() > 0.01


def test_the_librarys_own_modules_say_the_same(exact: PocketEngine, models: Path) -> None:
    """The transformer of the library reads all positions at once, with its own attention."""
    from pocket_tts.modules.stateful_module import init_states

    lm, model = exact._batch._lm, library(models)
    noise = 0.1 * torch.randn(1, 12_000, generator=torch.Generator().manual_seed(1))
    asked = wanted(2.0)
    run = new_run(exact, asked, voice := model.get_state_for_audio_prompt(noise))
    latents = alone(lm, run)
    theirs = model.flow_lm
    before = torch.cat([theirs.bos_emb[None], latents[:-1]])[None]
    audio = theirs.input_linear(before)
    text = theirs.conditioner(run.tokens[None])

    def outputs(prompt: Any, state: Any) -> Any:
        return theirs.backbone(audio, prompt, before, model_state=state)[0]

    with torch.inference_mode():
        positions = 500
        spoken = init_states(theirs, batch_size=1, sequence_length=positions)
        for name, kept in voice.items():
            length = int(kept["offset"].view(-1)[0])
            spoken[name]["offset"] = kept["offset"].clone()
            spoken[name]["cache"][:, :, :length] = kept["cache"][:, :, :length]
        fresh = init_states(theirs, batch_size=1, sequence_length=positions)
        z = outputs(text, spoken)
        null = outputs(theirs.bos_before_voice, fresh)
        generator = torch.Generator().manual_seed(asked.sampling.seed)
        draws = torch.randn(len(latents) + 1, 32, generator=generator)[1:] * 0.4**0.5
        guided = null + 2.0 * (z - null)
        expected = draws + theirs.flow_net(
            guided, torch.zeros(len(latents), 1), torch.ones(len(latents), 1), draws
        )
    assert (latents - expected).abs().max() < ROUNDING
    assert (z - guided).abs().max() > 0.01


def test_guided_runs_and_others_have_the_same_bits_in_every_company(int8: PocketEngine) -> None:
    lm = int8._batch._lm
    for draw in range(3):
        random = Random(draw)
        asked = []
        for number, one in enumerate(speakers(random, 20)):
            fields = {"cfg_guidance": random.choice((1.5, 3.0))} if number % 2 else {}
            clamp = random.choice((None, 0.5))
            make = partial(Sampling, one.sampling.seed, one.sampling.temperature)
            asked.append(
                one._replace(
                    sampling=make(
                        one.sampling.decode_steps,
                        one.sampling.eos_threshold,
                        noise_clamp=clamp,
                        **fields,
                    )
                )
            )
        expected = [alone(lm, new_run(int8, one)) for one in asked]
        got = in_company(lm, [new_run(int8, one) for one in asked], random)
        for one, theirs, ours in zip(asked, expected, got, strict=True):
            assert torch.equal(theirs, ours), one


def test_without_a_mark_before_voices_the_second_row_has_no_prefix(tmp_path: Path) -> None:
    write_odd_checkpoint(
        tmp_path,
        "english",
        SMALL | {"flow_lm": SMALL["flow_lm"] | {"insert_bos_before_voice": False}},
    )
    engine = loaded(tmp_path, quantize=False)
    lm = engine._batch._lm
    assert engine._null is not None
    assert engine._null.positions == 0
    guided = alone(lm, new_run(engine, wanted(2.0)))
    assert guided.isfinite().all()
    assert not torch.equal(guided, alone(lm, new_run(engine, wanted(None))))


def test_noise_stays_within_its_clamp(exact: PocketEngine) -> None:
    lm = exact._batch._lm

    def noise(temperature: float, clamp: float | None) -> Any:
        run = Run(
            prefix=Prefix((), 0),
            tokens=torch.zeros(1, dtype=torch.int64),
            generator=torch.Generator().manual_seed(1),
            temperature=temperature,
            decode_steps=1,
            eos_threshold=NEVER,
            frames_after_eos=0,
            most_frames=1,
            noise_clamp=clamp,
        )
        return torch.stack([lm._noise(run) for _ in range(100)])

    free, clamped = noise(1.0, None), noise(1.0, 0.5)
    assert free.abs().max() > 2
    assert 0.4 < clamped.abs().max() <= 0.5
    assert len(clamped.unique()) > 3000  # drawn again, not cut off
    assert not noise(0.0, 0.5).any()
