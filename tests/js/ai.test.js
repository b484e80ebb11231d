/**
 * Vercel's AI SDK with its OpenAI and ElevenLabs providers, in two generations. Its providers check
 * each answer with schemas of their own and refuse what does not fit.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { createElevenLabs } from "@ai-sdk/elevenlabs";
import { createOpenAI } from "@ai-sdk/openai";
import * as ai7 from "ai";
import * as ai6 from "ai-6";
import { createElevenLabs as createElevenLabs6 } from "ai-6-elevenlabs";
import { createOpenAI as createOpenAI6 } from "ai-6-openai";

import { assertInOrder, key, recording, TEXT, url } from "./support.js";

const GENERATIONS = {
    "ai 7": { ...ai7, createOpenAI, createElevenLabs },
    "ai 6": {
        APICallError: ai6.APICallError,
        generateSpeech: ai6.experimental_generateSpeech,
        transcribe: ai6.experimental_transcribe,
        createOpenAI: createOpenAI6,
        createElevenLabs: createElevenLabs6,
    },
};

/** The provider for ElevenLabs has no option for its address, only one for `fetch`. */
const toService = (address, init) => fetch(address.replace("https://api.elevenlabs.io", url), init);

/** The start and the end of each segment. */
const times = (segments) => segments.map(({ startSecond, endSecond }) => [startSecond, endSecond]);

for (const [name, sdk] of Object.entries(GENERATIONS)) {
    const openai = sdk.createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
    const elevenlabs = sdk.createElevenLabs({ fetch: toService, apiKey: key });
    const speak = (model, options = {}) =>
        sdk.generateSpeech({ model, text: TEXT, maxRetries: 0, ...options });
    const hear = async (model, options = {}) =>
        sdk.transcribe({ model, audio: await recording(), maxRetries: 0, ...options });

    for (const model of ["tts-1", "gpt-4o-mini-tts"]) {
        test(`${name}: OpenAI's speech with ${model}`, async () => {
            const options = { voice: "nova", instructions: "Be calm.", speed: 1.5 };
            const { audio, warnings } = await speak(openai.speech(model), options);
            assert.equal(audio.mediaType, "audio/mpeg");
            assert(audio.uint8Array.length > 5_000);
            assert.deepEqual(warnings, []);
        });
    }

    test(`${name}: OpenAI's speech as WAV is understood`, async () => {
        const { audio } = await speak(openai.speech("tts-1"), { outputFormat: "wav" });
        assert.equal(audio.mediaType, "audio/wav");
        const heard = await hear(openai.transcription("whisper-1"), { audio: audio.uint8Array });
        assert.match(heard.text, /hello world/i);
    });

    test(`${name}: OpenAI's transcription, verbose_json with segments`, async () => {
        // Version 7 of the SDK asks for segments by itself.
        const asked = name === "ai 6" ? { timestampGranularities: ["segment"] } : {};
        const heard = await hear(openai.transcription("whisper-1"), { providerOptions: { openai: asked } });
        assert.match(heard.text, /hello world/i);
        assert.equal(heard.language, "en");
        assert(heard.durationInSeconds > 1);
        assertInOrder(times(heard.segments));
        assert(heard.segments.at(-1).endSecond <= heard.durationInSeconds + 0.001);
        assert.deepEqual(heard.warnings, []);
    });

    test(`${name}: OpenAI's transcription, verbose_json with words`, async () => {
        const heard = await hear(openai.transcription("whisper-1"), {
            providerOptions: { openai: { timestampGranularities: ["word", "segment"] } },
        });
        const [{ body }] = heard.responses;
        assert.equal(body.words.map(({ word }) => word).join(" "), heard.text);
        assertInOrder(body.words.map(({ start, end }) => [start, end]));
    });

    for (const model of ["gpt-4o-transcribe", "gpt-4o-mini-transcribe"]) {
        test(`${name}: OpenAI's transcription with ${model}`, async () => {
            const heard = await hear(openai.transcription(model), {
                providerOptions: { openai: { language: "en", prompt: "A greeting.", temperature: 0 } },
            });
            assert.match(heard.text, /hello world/i);
        });
    }

    test(`${name}: OpenAI's errors`, async () => {
        const wrong = sdk.createOpenAI({ baseURL: `${url}/v1`, apiKey: "wrong" });
        const calls = [() => speak(wrong.speech("tts-1")), () => hear(wrong.transcription("whisper-1"))];
        for (const call of calls) {
            await assert.rejects(call, (error) => {
                assert(sdk.APICallError.isInstance(error), String(error));
                assert.equal(error.statusCode, 401);
                assert.match(error.message, /API key/i); // what the service says, not the status
                return true;
            });
        }
        const silent = speak(openai.speech("tts-1"), { voice: "nobody" });
        await assert.rejects(silent, (error) => error.statusCode === 400 || error.statusCode === 404);
    });

    test(`${name}: ElevenLabs' speech in the default voice`, async () => {
        const { audio, warnings } = await speak(elevenlabs.speech("eleven_multilingual_v2"));
        assert.equal(audio.mediaType, "audio/mpeg");
        assert(audio.uint8Array.length > 5_000);
        assert.deepEqual(warnings, []);
    });

    test(`${name}: ElevenLabs' speech with all options`, async () => {
        const { audio } = await speak(elevenlabs.speech("eleven_turbo_v2_5"), {
            voice: "slt",
            outputFormat: "pcm_16000",
            language: "en",
            speed: 1.1,
            providerOptions: {
                elevenlabs: {
                    voiceSettings: { stability: 0.5, similarityBoost: 0.75, style: 0, useSpeakerBoost: true },
                    seed: 7,
                    previousText: "Before.",
                    nextText: "After.",
                    applyTextNormalization: "auto",
                    enableLogging: false,
                },
            },
        });
        assert(audio.uint8Array.length > 32_000);
    });

    test(`${name}: ElevenLabs' transcription, diarize=true`, async () => {
        const heard = await hear(elevenlabs.transcription("scribe_v1"));
        assert.match(heard.text, /hello world/i);
        assert(["en", "eng"].includes(heard.language));
        assert(heard.durationInSeconds > 1);
        assertInOrder(times(heard.segments));
        const [{ body }] = heard.responses;
        assert(body.words.filter(({ type }) => type === "word").every((word) => word.speaker_id === "speaker_0"));
    });

    test(`${name}: ElevenLabs' transcription, diarize sent twice`, async () => {
        const heard = await hear(elevenlabs.transcription("scribe_v1"), {
            providerOptions: {
                elevenlabs: { languageCode: "en", timestampsGranularity: "character", fileFormat: "other" },
            },
        });
        assert.match(heard.text, /hello world/i);
        const [{ body }] = heard.responses;
        assert(body.words.every((word) => word.speaker_id == null)); // the last one, `false`, counts
        assert.equal(body.words[0].characters.map(({ text }) => text).join(""), body.words[0].text);
    });

    test(`${name}: ElevenLabs' errors`, async () => {
        const wrong = sdk.createElevenLabs({ fetch: toService, apiKey: "wrong" });
        const calls = [() => speak(wrong.speech("eleven_v3")), () => hear(wrong.transcription("scribe_v1"))];
        for (const call of calls) {
            await assert.rejects(call, (error) => {
                assert(sdk.APICallError.isInstance(error), String(error));
                assert.equal(error.statusCode, 401);
                return true;
            });
        }
    });
}

// The generation before knows neither this model nor its answer.
test("ai 7: OpenAI's transcription, diarized_json", async () => {
    const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
    const model = openai.transcription("gpt-4o-transcribe-diarize");
    const heard = await ai7.transcribe({ model, audio: await recording(), maxRetries: 0 });
    assert.match(heard.text, /hello world/i);
    assertInOrder(times(heard.segments));
    const { segments } = heard.providerMetadata.openai;
    assert(segments.length > 0);
    assert(segments.every(({ speaker }) => typeof speaker === "string" && speaker !== ""));
    assert.equal(new Set(segments.map(({ speaker }) => speaker)).size, 1);
});
