/**
 * OpenAI's SDK for Node against running services: VOICE_ENGINE_URL has the embedded engines,
 * VOICE_ENGINE_SCRIPTED_URL those of tests/engines.py.
 */

import assert from "node:assert/strict";
import { File } from "node:buffer";
import { test } from "node:test";

import OpenAI, { toFile } from "openai";

globalThis.File ??= File; // which Node 18 keeps to itself

const TEXT = "Hello world, how are you today? I am fine, thank you.";

function sdk(variable, options = {}) {
    const url = process.env[variable];
    assert(url, `${variable} is not set`);
    return new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0, ...options });
}

const client = sdk("VOICE_ENGINE_URL");
const scripted = sdk("VOICE_ENGINE_SCRIPTED_URL");

async function speak(options = {}) {
    const answer = await client.audio.speech.create({
        model: "tts-1",
        voice: "alloy",
        input: TEXT,
        ...options,
    });
    return { answer, data: Buffer.from(await answer.arrayBuffer()) };
}

const recording = async () => {
    const options = { input: "Hello world.", voice: "slt", response_format: "wav" };
    return toFile((await speak(options)).data, "recording.wav");
};

const bytes = (text) => ({
    mp3: (data) => data[0] === 0xff && (data[1] & 0xe0) === 0xe0,
    opus: (data) => data.subarray(0, 4).toString() === "OggS" && data.includes("OpusHead"),
    aac: (data) => data[0] === 0xff && (data[1] & 0xf6) === 0xf0,
    flac: (data) => data.subarray(0, 4).toString() === "fLaC",
    wav: (data) => data.subarray(0, 4).toString() === "RIFF",
    pcm: (data) => data.length % 2 === 0 && data.length > 2 * 24_000,
})[text];

for (const format of ["mp3", "opus", "aac", "flac", "wav", "pcm"]) {
    test(`speech in ${format}`, async () => {
        const { answer, data } = await speak({ response_format: format });
        assert.equal(answer.status, 200);
        assert(["kal16", "rms", "awb", "slt"].includes(answer.headers.get("X-Voice-Id")));
        assert(bytes(format)(data), data.subarray(0, 16).toString("hex"));
    });
}

test("sound comes while it is made", async () => {
    const abort = new AbortController();
    const answer = await scripted.audio.speech.create(
        { model: "tts-1", voice: "alloy", input: "say 5; sleep 600" },
        { signal: abort.signal },
    );
    let received = 0;
    await assert.rejects(async () => {
        for await (const data of answer.body) {
            received += data.length;
            if (received >= 44 + 5 * 960) {
                abort.abort();
            }
        }
    });
    assert.equal(received, 44 + 5 * 960);
});

test("speech as events", async () => {
    const { answer, data } = await speak({ response_format: "pcm", stream_format: "sse" });
    assert.equal(answer.headers.get("Content-Type"), "text/event-stream");
    const events = data
        .toString()
        .split("\n\n")
        .filter(Boolean)
        .map((event) => JSON.parse(event.slice("data: ".length)));
    const done = events.pop();
    assert(events.every((event) => event.type === "speech.audio.delta"));
    const sound = Buffer.concat(events.map((event) => Buffer.from(event.audio, "base64")));
    assert(sound.equals((await speak({ response_format: "pcm" })).data));
    assert.equal(done.type, "speech.audio.done");
    assert.equal(done.usage.input_tokens, TEXT.length);
    assert.equal(done.usage.total_tokens, TEXT.length + done.usage.output_tokens);
});

test("a transcript in every format", async () => {
    const file = await recording();
    const create = (options) =>
        client.audio.transcriptions.create({ model: "whisper-1", file, ...options });
    const { text, usage, emotion } = await create({ language: "en" });
    assert.match(text, /hello world/);
    assert.equal(usage.type, "duration");
    assert.equal(emotion, "EMO_UNKNOWN");
    assert.equal(await create({ response_format: "text" }), `${text}\n`);
    assert.match(await create({ response_format: "srt" }), /^1\n00:00:0.,.* --> 00:00:0/);
    assert.match(await create({ response_format: "vtt" }), /^WEBVTT\n\n00:00:0.\..* --> 00:00:0/);
    const verbose = await create({
        response_format: "verbose_json",
        timestamp_granularities: ["segment", "word"],
    });
    assert.equal(verbose.language, "english");
    assert.equal(verbose.segments.map((segment) => segment.text).join(" "), text);
    assert.equal(verbose.words.map((word) => word.word).join(" "), text);
    for (const { start, end } of [...verbose.segments, ...verbose.words]) {
        assert(0 <= start && start <= end && end <= verbose.duration);
    }
    const diarized = await create({ response_format: "diarized_json" });
    assert.equal(diarized.text, text);
    assert.deepEqual(new Set(diarized.segments.map((segment) => segment.speaker)), new Set(["A"]));
});

test("a streamed transcript", async () => {
    const file = await recording();
    const stream = await client.audio.transcriptions.create({
        model: "gpt-4o-transcribe",
        file,
        stream: true,
        chunking_strategy: { type: "server_vad" },
    });
    let text = "";
    let done;
    for await (const event of stream) {
        if (event.type === "transcript.text.delta") {
            text += event.delta;
        } else {
            done = event;
        }
    }
    assert.equal(done.type, "transcript.text.done");
    assert.equal(done.text, text);
    assert.match(text, /hello world/);
});

test("a streamed transcript that fails says why", async () => {
    const stream = await scripted.audio.transcriptions.create({
        model: "any",
        file: await toFile(Buffer.from("segment Hello there.; raise a bug"), "script.wav"),
        stream: true,
    });
    const heard = [];
    await assert.rejects(
        async () => {
            for await (const event of stream) {
                heard.push(event.delta);
            }
        },
        (error) => error instanceof OpenAI.APIError && error.code === "engine_error",
    );
    assert.deepEqual(heard, ["Hello there."]);
});

test("models", async () => {
    const models = [];
    for await (const model of client.models.list()) {
        models.push(model);
    }
    assert.deepEqual(models.slice(0, 2).map((model) => model.id), ["flite", "sphinx"]);
    assert.deepEqual(await client.models.retrieve("whisper-1"), models.find((model) => model.id === "whisper-1"));
    await assert.rejects(client.models.retrieve("gpt-4o"), OpenAI.NotFoundError);
});

test("errors are the SDK's own", async () => {
    await assert.rejects(speak({ voice: "nobody" }), OpenAI.NotFoundError);
    await assert.rejects(speak({ input: "" }), (error) => {
        assert(error instanceof OpenAI.BadRequestError);
        assert.equal(error.code, "empty_text");
        assert.equal(error.type, "invalid_request_error");
        assert(error.requestID);
        return true;
    });
    const statuses = [];
    const retrying = sdk("VOICE_ENGINE_SCRIPTED_URL", {
        maxRetries: 1,
        fetch: async (address, options) => {
            const answer = await fetch(address, options);
            if (String(address).startsWith("http")) {
                statuses.push(answer.status); // the SDK also tries fetch with a data: address
            }
            return answer;
        },
    });
    await assert.rejects(
        retrying.audio.transcriptions.create(
            { model: "whisper-1", file: await toFile(Buffer.from("sleep 600"), "script.wav") },
            { headers: { "X-Request-Timeout": "2" } },
        ),
        (error) => error instanceof OpenAI.InternalServerError && error.status === 504,
    );
    assert.deepEqual(statuses, [504, 504]);
});
