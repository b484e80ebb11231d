/**
 * What the tests of several JavaScript clients share. The service, which has the embedded engines,
 * is at VOICE_ENGINE_URL; its key is in VOICE_ENGINE_KEY.
 */

import assert from "node:assert/strict";
import { File } from "node:buffer";

globalThis.File ??= File; // which Node 18 keeps to itself

function setting(name) {
    const value = process.env[name];
    assert(value, `${name} is not set`);
    return value;
}

export const url = setting("VOICE_ENGINE_URL");
export const key = setting("VOICE_ENGINE_KEY");
/** Short, because it is recognized often, and that is what takes long. */
export const SAID = "Hello world.";
export const TEXT = "Hello world, how are you today? I am fine, thank you.";

let wav;

/** `SAID` as a WAV, by a request of no client's library. */
export async function recording() {
    return (wav ??= await spoken());
}

async function spoken() {
    const answer = await fetch(`${url}/v1/tts`, {
        method: "POST",
        headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
        body: JSON.stringify({ text: SAID, voice_id: "slt" }),
    });
    assert.equal(answer.status, 200);
    return Buffer.from(await answer.arrayBuffer());
}

/** Asserts that nothing ends before it begins, or begins before what stands before it. */
export function assertInOrder(times) {
    assert(times.length > 0);
    let before = 0;
    for (const [start, end] of times) {
        assert(before <= start && start <= end, `${before} ${start} ${end}`);
        before = start;
    }
}
