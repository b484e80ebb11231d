/**
 * The client against a running service, whose address is in VOICE_ENGINE_URL: its engines are the
 * embedded ones, and its queue for speech holds a single request.
 */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { VoiceEngineClient, VoiceEngineError } from "./client.js";

const url = process.env["VOICE_ENGINE_URL"];
assert(url, "VOICE_ENGINE_URL is not set");
const client = new VoiceEngineClient(url, undefined, 600);

/** What a call is refused with. */
async function refused(call: Promise<unknown>): Promise<VoiceEngineError> {
    const error: unknown = await call.then(
        () => undefined,
        (reason: unknown) => reason,
    );
    assert(error instanceof VoiceEngineError, `not refused: ${String(error)}`);
    return error;
}

test("health says which models are loaded", async () => {
    const health = await client.health();
    assert.equal(health.status, "ok");
    assert.equal(health.asr_loaded, true);
    assert.equal(health.tts_loaded, true);
    assert(health.voices_loaded >= 4);
});

test("what is spoken is understood", async () => {
    const sound = await client.tts("Hello world, how are you today?", "slt");
    assert.equal(sound.type, "audio/wav");
    const heard = await client.transcribe(sound, { language: "en", timestamps: "true" });
    assert.match(heard.text, /hello world/i);
    assert.equal(heard.language, "en");
    assert(heard.duration > 1);
    assert(heard.segments !== undefined && heard.segments.length > 0);
    for (const segment of heard.segments) {
        assert(0 <= segment.start && segment.start < segment.end);
        assert(segment.end <= heard.duration + 0.001);
    }
});

test("a registered voice is listed, speaks and goes", async () => {
    const recording = await client.tts("This is my voice, as I speak every day.", "awb");
    assert.deepEqual(await client.registerVoice("worker-voice", recording), {
        status: "ok",
        voice_id: "worker-voice",
    });
    const listed = (await client.listVoices()).find((voice) => voice.voice_id === "worker-voice");
    assert.equal(listed?.type, "registered");
    const sound = await client.tts("And these are other words.", "worker-voice");
    assert(sound.size > 10_000);
    await client.deleteVoice("worker-voice");
    assert.equal((await refused(client.tts("Gone?", "worker-voice"))).status, 404);
});

test("an error says what to do", async () => {
    const blank = await refused(client.tts(" "));
    assert.equal(blank.status, 400);
    assert.equal(blank.code, "empty_text");
    assert.match(blank.message, /send a text to speak/);
    const garbage = await refused(client.transcribe(new Blob(["this is no recording"])));
    assert.equal(garbage.status, 400);
    assert.equal(garbage.code, "invalid_audio");
});

test("a busy service is asked again until it has time", async () => {
    const texts = Array.from({ length: 6 }, (_, number) => `This is sentence number ${number}. `);
    const hasty = new VoiceEngineClient(url, undefined, 1);
    const statuses: number[] = [];
    while (statuses.length === 0) {
        // They need not all be sent before the first ones are answered.
        const tried = await Promise.allSettled(texts.map((text) => hasty.tts(text.repeat(50))));
        for (const outcome of tried) {
            if (outcome.status === "rejected") {
                statuses.push((outcome.reason as VoiceEngineError).status);
            }
        }
    }
    assert(statuses.every((status) => status === 503), `${statuses}`);
    const sounds = await Promise.all(texts.map((text) => client.tts(text)));
    assert(sounds.every((sound) => sound.size > 10_000));
});

test("a proxy's 502 and 504 are tried again, and are told when they stay", async () => {
    const answers = [502, 504];
    let asked = 0;
    const proxy = createServer((request, response) => {
        asked += 1;
        request.resume();
        const status = answers.shift();
        if (status !== undefined) {
            response.writeHead(status, { "Content-Type": "text/plain" }).end("bad gateway");
            return;
        }
        fetch(url + request.url).then(async (answer) => {
            response.writeHead(answer.status).end(Buffer.from(await answer.arrayBuffer()));
        });
    });
    proxy.listen(0, "127.0.0.1");
    await once(proxy, "listening");
    const through = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
    try {
        const patient = new VoiceEngineClient(through, undefined, 3, 1);
        assert((await patient.listVoices()).length >= 4);
        assert.equal(asked, 3);
        answers.push(502, 502);
        const hasty = new VoiceEngineClient(through, undefined, 2, 1);
        const error = await refused(hasty.listVoices());
        assert.equal(error.status, 502);
        assert.equal(error.message, "bad gateway");
    } finally {
        proxy.closeAllConnections();
        proxy.close();
    }
});
