/** ElevenLabs' SDK for Node: its calls, and its schemas on each answer that the service gives. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { AudioFormat, ElevenLabsClient, ElevenLabsError, RealtimeEvents } from "@elevenlabs/elevenlabs-js";
import serialization from "@elevenlabs/elevenlabs-js/serialization/index.js";

import { assertInOrder, key, recording, SAID, TEXT, url } from "./support.js";

const DEFAULT_VOICES = ["21m00Tcm4TlvDq8ikWAM", "hpp4J3VqNfWAUOO0d1Us", "JBFqnCBsd6RMkjVDRZzb"];

const client = new ElevenLabsClient({ baseUrl: url, apiKey: key, maxRetries: 0 });
let wav;
let voice;

before(async () => {
    wav = await recording();
    ({ voiceId: voice } = await client.voices.ivc.create({ name: "Anna", files: [file("anna.wav")] }));
});

after(() => client.voices.delete(voice));

const file = (name) => new File([wav], name, { type: "audio/wav" });

async function read(stream) {
    const pieces = [];
    for await (const piece of stream) {
        pieces.push(Buffer.from(piece));
    }
    return Buffer.concat(pieces);
}

const seconds = (pcm, rate) => pcm.length / 2 / rate;

// Speech

for (const method of ["convert", "stream"]) {
    test(`textToSpeech.${method}`, async () => {
        const options = { text: TEXT, modelId: "eleven_multilingual_v2", outputFormat: "pcm_16000" };
        const sound = await read(await client.textToSpeech[method]("slt", options));
        assert(seconds(sound, 16_000) > 2);
        const settings = { stability: 0.5, similarityBoost: 0.8, style: 0, useSpeakerBoost: true, speed: 1.2 };
        const faster = await read(
            await client.textToSpeech[method](voice, { ...options, voiceSettings: settings, languageCode: "en" }),
        );
        assert(seconds(faster, 16_000) > 1);
    });
}

for (const name of DEFAULT_VOICES) {
    test(`a voice that each of their accounts has: ${name}`, async () => {
        const sound = await read(await client.textToSpeech.convert(name, { text: "Hi." }));
        assert(sound.length > 1_000);
    });
}

function assertAligned(alignment, text, duration) {
    const starts = alignment.characterStartTimesSeconds;
    const ends = alignment.characterEndTimesSeconds;
    assert.equal(alignment.characters.join(""), text);
    assertInOrder(starts.map((start, number) => [start, ends[number]]));
    assert(ends.at(-1) <= duration + 0.01, `${ends.at(-1)} of ${duration}`);
}

test("textToSpeech.convertWithTimestamps", async () => {
    const answer = await client.textToSpeech.convertWithTimestamps("slt", {
        text: TEXT,
        outputFormat: "pcm_16000",
    });
    const sound = Buffer.from(answer.audioBase64, "base64");
    assertAligned(answer.alignment, TEXT, seconds(sound, 16_000));
});

test("textToSpeech.streamWithTimestamps", async () => {
    const whole = await read(
        await client.textToSpeech.convert("slt", { text: TEXT, outputFormat: "pcm_16000" }),
    );
    const stream = await client.textToSpeech.streamWithTimestamps("slt", {
        text: TEXT,
        outputFormat: "pcm_16000",
    });
    const sounds = [];
    const characters = [];
    const times = [];
    for await (const chunk of stream) {
        sounds.push(Buffer.from(chunk.audioBase64, "base64"));
        const { alignment } = chunk;
        if (alignment != null) {
            characters.push(...alignment.characters);
            const ends = alignment.characterEndTimesSeconds;
            times.push(...alignment.characterStartTimesSeconds.map((start, number) => [start, ends[number]]));
        }
    }
    assert(sounds.length > 1, "one line for each sentence");
    assert.equal(characters.join("").trim(), TEXT);
    assertInOrder(times);
    const duration = seconds(Buffer.concat(sounds), 16_000);
    assert(Math.abs(duration - seconds(whole, 16_000)) < 0.5, `${duration}`);
    assert(times.at(-1)[1] <= duration + 0.01);
});

// Transcription

test("speechToText.convert", async () => {
    const heard = await client.speechToText.convert({
        file: file("recording.wav"),
        modelId: "scribe_v1",
        languageCode: "eng",
        tagAudioEvents: true,
    });
    assert.match(heard.text, /hello world/i);
    assert.equal(typeof heard.languageProbability, "number");
    const words = heard.words.filter(({ type }) => type === "word");
    assert.equal(words.map(({ text }) => text).join(" "), heard.text);
    assertInOrder(words.map(({ start, end }) => [start, end]));
    assert(words.every(({ logprob }) => Number.isFinite(logprob) && logprob <= 0));
});

test("speechToText.convert, diarized, with characters", async () => {
    const heard = await client.speechToText.convert({
        file: file("recording.wav"),
        modelId: "scribe_v1",
        diarize: true,
        numSpeakers: 1,
        timestampsGranularity: "character",
    });
    const words = heard.words.filter(({ type }) => type === "word");
    assert(words.every(({ speakerId }) => speakerId === "speaker_0"));
    assert(words.every((word) => word.characters.map(({ text }) => text).join("") === word.text));
});

// Voices, models and the account

test("voices", async () => {
    const { voices } = await client.voices.getAll();
    assert(voices.some(({ voiceId }) => voiceId === voice));
    const found = await client.voices.search({ search: "Anna", pageSize: 10 });
    assert.deepEqual(found.voices.map(({ voiceId }) => voiceId), [voice]);
    assert.equal((await client.voices.get(voice)).name, "Anna");
    const { stability } = await client.voices.settings.getDefault();
    assert.equal(typeof stability, "number");
    assert.equal(typeof (await client.voices.settings.get(voice)).stability, "number");
});

test("voices.ivc.create with two recordings", async () => {
    const made = await client.voices.ivc.create({
        name: "Two recordings",
        files: [file("one.wav"), file("two.wav")],
        description: "of one person",
        labels: JSON.stringify({ accent: "american" }),
        removeBackgroundNoise: false,
    });
    assert.equal(made.requiresVerification, false);
    try {
        const sound = await read(await client.textToSpeech.convert(made.voiceId, { text: "Hi." }));
        assert(sound.length > 1_000);
    } finally {
        await client.voices.delete(made.voiceId);
    }
    await assert.rejects(client.voices.get(made.voiceId), (error) => error.statusCode === 404);
});

test("models.list", async () => {
    const models = await client.models.list();
    assert(models.some((model) => model.canDoTextToSpeech && model.languages.length > 0));
});

test("user", async () => {
    const user = await client.user.get();
    assert.equal(typeof user.subscription.characterLimit, "number");
    assert((await client.user.subscription.get()).canUseInstantVoiceCloning);
});

// Errors

test("a wrong key", async () => {
    const wrong = new ElevenLabsClient({ baseUrl: url, apiKey: "wrong", maxRetries: 0 });
    const calls = [
        () => wrong.textToSpeech.convert("slt", { text: "Hi." }),
        () => wrong.speechToText.convert({ file: file("recording.wav"), modelId: "scribe_v1" }),
        () => wrong.voices.getAll(),
        () => wrong.models.list(),
        () => wrong.user.get(),
    ];
    for (const call of calls) {
        await assert.rejects(call, (error) => {
            assert(error instanceof ElevenLabsError, String(error));
            assert.equal(error.statusCode, 401);
            assert.match(JSON.stringify(error.body), /API key/i);
            return true;
        });
    }
});

test("a voice that there is not", async () => {
    await assert.rejects(client.textToSpeech.convert("nobody", { text: "Hi." }), (error) => {
        assert(error instanceof ElevenLabsError);
        assert.equal(error.statusCode, 404);
        return true;
    });
});

// Schemas

/** The SDK lets enum values and members of unions pass that it does not know; here they fail. */
const STRICT = { unrecognizedObjectKeys: "strip", breadcrumbsPrefix: ["answer"] };

async function answered(path, fields) {
    let body;
    const headers = { "xi-api-key": key };
    if (fields?.model_id !== undefined && fields.file !== undefined) {
        body = new FormData();
        for (const [name, value] of Object.entries(fields)) {
            body.append(name, value);
        }
    } else if (fields !== undefined) {
        body = JSON.stringify(fields);
        headers["Content-Type"] = "application/json";
    }
    const answer = await fetch(url + path, { method: body ? "POST" : "GET", headers, body });
    assert.equal(answer.status, 200, await answer.clone().text());
    return answer;
}

const SPEECH = { text: TEXT, model_id: "eleven_v3" };
const HEARD = [
    {},
    { diarize: "true" },
    { timestamps_granularity: "none" },
    { timestamps_granularity: "word" },
    { timestamps_granularity: "character" },
    { language_code: "en", tag_audio_events: "false", num_speakers: "1" },
];
const SCHEMAS = [
    ["/v1/text-to-speech/slt/with-timestamps", serialization.AudioWithTimestampsResponse, () => SPEECH],
    ...HEARD.map((options) => [
        "/v1/speech-to-text",
        serialization.SpeechToTextChunkResponseModel,
        () => ({ file: file("recording.wav"), model_id: "scribe_v1", ...options }),
        options,
    ]),
    ["/v1/voices", serialization.GetVoicesResponse],
    ["/v2/voices", serialization.GetVoicesV2Response],
    ["/v1/voices/slt", serialization.Voice],
    ["/v1/voices/settings/default", serialization.VoiceSettings],
    ["/v1/voices/slt/settings", serialization.VoiceSettings],
    ["/v1/models", serialization.models.list.Response],
    ["/v1/user", serialization.User],
    ["/v1/user/subscription", serialization.Subscription],
];

for (const [path, schema, fields, options] of SCHEMAS) {
    test(`the schema of ${path} ${JSON.stringify(options ?? {})}`, async () => {
        assert(schema, "the SDK has no such schema");
        schema.parseOrThrow(await (await answered(path, fields?.())).json(), STRICT);
    });
}

test("speechToText.realtime", async () => {
    const connection = await client.speechToText.realtime.connect({
        modelId: "scribe_v2_realtime",
        audioFormat: AudioFormat.PCM_24000,
        sampleRate: 24000,
        includeTimestamps: true,
    });
    const told = new Promise((resolve, reject) => {
        connection.on(RealtimeEvents.COMMITTED_TRANSCRIPT_WITH_TIMESTAMPS, resolve);
        connection.on(RealtimeEvents.ERROR, (error) => reject(new Error(error.error ?? error.message)));
    });
    await new Promise((resolve) => connection.on(RealtimeEvents.SESSION_STARTED, resolve));
    const audio = await client.textToSpeech.convert("slt", {
        text: SAID,
        outputFormat: "pcm_24000",
    });
    const sound = await read(audio);
    for (let at = 0; at < sound.length; at += 4800) {
        connection.send({ audioBase64: sound.subarray(at, at + 4800).toString("base64") });
    }
    connection.commit();
    const { text, words, language_code: language } = await told;
    connection.close();
    assert.match(text, /hello,? world/i);
    assert.equal(language, "eng");
    assertInOrder(words.map(({ start, end }) => [start, end]));
});

test("the schema of each line of /stream/with-timestamps", async () => {
    const answer = await answered("/v1/text-to-speech/slt/stream/with-timestamps", SPEECH);
    const lines = (await answer.text()).split("\n").filter(Boolean);
    assert(lines.length > 1);
    for (const line of lines) {
        serialization.StreamingAudioChunkWithTimestampsResponse.parseOrThrow(JSON.parse(line), STRICT);
    }
});

test("the schemas of a registered voice, its change and its end", async () => {
    const body = new FormData();
    body.append("name", "Short-lived");
    body.append("files", file("one.wav"));
    const headers = { "xi-api-key": key };
    const call = async (method, path, form) => {
        const answer = await fetch(url + path, { method, headers, body: form });
        assert.equal(answer.status, 200, await answer.clone().text());
        return answer.json();
    };
    const { AddVoiceIvcResponseModel, EditVoiceResponseModel, DeleteVoiceResponseModel } = serialization;
    const made = AddVoiceIvcResponseModel.parseOrThrow(await call("POST", "/v1/voices/add", body), STRICT);
    const path = `/v1/voices/${made.voiceId}`;
    serialization.Voice.parseOrThrow(await call("GET", path), STRICT);
    const change = new FormData();
    change.append("name", "Renamed");
    EditVoiceResponseModel.parseOrThrow(await call("POST", `${path}/edit`, change), STRICT);
    assert.equal((await call("GET", path)).name, "Renamed");
    DeleteVoiceResponseModel.parseOrThrow(await call("DELETE", path), STRICT);
});
