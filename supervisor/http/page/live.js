// @ts-check
/**
 * Speech over the service's live session: the sound of a text while it is spoken.
 */

import { address, Refusal } from "./api.js";
import { key } from "./key.js";

/** Characters of one message; the service takes 20,000. */
const MESSAGE = 10_000;

/** The options of a request that a session has by another name, or not at all. */
const RENAMED = /** @type {Record<string, string>} */ ({ voice_id: "voice" });

/**
 * The sound as the response of a request would have it: PCM with 16 bits. Null where there can be no
 * session: a proxy may not pass it, or a key may be missing. Throws `Refusal`.
 * @param {Record<string, string | number | boolean>} fields those of `v1/tts`
 * @param {AbortSignal} signal
 * @returns {Promise<Response | null>}
 */
export function liveSpeech(fields, signal) {
    const socket = new WebSocket(address("v1/tts/stream").replace(/^http/, "ws"));
    socket.binaryType = "arraybuffer";
    const { text, ...options } = fields;
    /** @type {ReadableStreamDefaultController<Uint8Array>} */
    let sound;
    const body = new ReadableStream({ start: (controller) => void (sound = controller) });
    return new Promise((resolve, reject) => {
        let started = false;
        let over = false;
        /** @param {unknown} [error] */
        const end = (error) => {
            if (over) return;
            over = true;
            signal.removeEventListener("abort", abort);
            socket.close();
            if (error === undefined) sound.close();
            else if (started) sound.error(error);
            else reject(error);
        };
        const abort = () => end(new DOMException("Stopped.", "AbortError"));
        signal.addEventListener("abort", abort);
        if (signal.aborted) abort();
        socket.onopen = () => {
            const start = Object.entries(options).map(([name, value]) => [RENAMED[name] ?? name, value]);
            const own = { type: "start", format: "pcm", ...(key() ? { api_key: key() } : {}) };
            socket.send(JSON.stringify({ ...own, ...Object.fromEntries(start) }));
            const letters = [...String(text)];
            for (let at = 0; at < letters.length; at += MESSAGE) {
                const part = letters.slice(at, at + MESSAGE).join("");
                socket.send(JSON.stringify({ type: "text", text: part }));
            }
            socket.send(JSON.stringify({ type: "end" }));
        };
        socket.onmessage = ({ data }) => {
            if (over) return;
            if (typeof data !== "string") return sound.enqueue(new Uint8Array(data));
            const told = JSON.parse(data);
            if (told.type === "started") {
                started = true;
                const headers = new Headers({ "X-Sample-Rate": String(told.sample_rate) });
                if (told.approximation) headers.set("X-Voice-Approximation", told.approximation);
                resolve(new Response(body, { headers }));
            } else if (told.type === "error" && told.code === "unauthorized" && !started) {
                resolve(null);
                end(null);
            } else if (told.type === "error") {
                end(new Refusal(told.message, 0));
            } else if (told.type === "done") {
                end();
            }
            return undefined;
        };
        socket.onclose = () => {
            if (!started) resolve(null);
            end(new TypeError("the session was cut"));
        };
    });
}
