// @ts-check
/**
 * Requests to the service: with the key, with errors as sentences, and with a dialog when a key is
 * missing. All addresses are relative to the page, so that it also works behind a prefix.
 */

import { askForKey, key, keyHeader } from "./key.js";

/** What the service, or the way to it, has refused; the message says what to do. */
export class Refusal extends Error {
    /** @param {string} message @param {number} status 0 without a response */
    constructor(message, status) {
        super(message);
        this.status = status;
    }
}

/**
 * The whole address of a path of the service, such as `v1/tts`.
 * @param {string} path
 */
export function address(path) {
    return new URL(path, document.baseURI).href;
}

/**
 * Send a request; the response is a good one. Asks for a key when one is needed. Throws `Refusal`.
 * @param {string} path
 * @param {RequestInit & {quiet?: boolean}} [options] `quiet`: do not ask for a key
 * @returns {Promise<Response>}
 */
export async function request(path, options = {}) {
    const { quiet, ...rest } = options;
    for (;;) {
        const used = key();
        const response = await send(path, rest, used);
        if (response.ok) return response;
        const refusal = await refusalOf(response);
        if (quiet || (response.status !== 401 && response.status !== 403)) throw refusal;
        // Another request may have got a key meanwhile.
        if (key() === used && !(await askFor(response.status, path))) {
            throw new Refusal("This needs a key. Try again to enter one.", response.status);
        }
    }
}

/**
 * The JSON of a response to `request`.
 * @param {string} path
 * @param {RequestInit & {quiet?: boolean}} [options]
 * @returns {Promise<any>}
 */
export async function json(path, options) {
    return (await request(path, options)).json();
}

/**
 * Send JSON; the JSON of the response.
 * @param {string} method
 * @param {string} path
 * @param {object} body
 */
export function sendJson(method, path, body) {
    const headers = { "Content-Type": "application/json" };
    return json(path, { method, headers, body: JSON.stringify(body) });
}

/**
 * Whether an error means only that the user has stopped something.
 * @param {unknown} error
 */
export function isAbort(error) {
    return error instanceof DOMException && error.name === "AbortError";
}

/**
 * An error as a sentence for the user.
 * @param {unknown} error
 */
export function sentence(error) {
    const text = error instanceof Error ? error.message : String(error);
    return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** @param {string} path @param {RequestInit} options @param {string} used */
async function send(path, options, used) {
    const headers = { ...keyHeader(used), .../** @type {any} */ (options.headers) };
    try {
        return await fetch(address(path), { ...options, headers, cache: "no-store" });
    } catch (error) {
        if (isAbort(error)) throw error;
        throw new Refusal("The service cannot be reached. Check that it runs, then try again.", 0);
    }
}

/** @param {Response} response */
async function refusalOf(response) {
    const wait = response.headers.get("Retry-After");
    /** @type {string} */
    const detail = await response.json().then(
        (body) => body.detail ?? "",
        () => "",
    );
    const text = detail || `The service answers ${response.status}. Look into its log.`;
    return new Refusal(wait ? `${text} (try again in ${wait} s)` : text, response.status);
}

/** What only operators may ask for, if there is a key for them. */
const OPERATORS = /^v1\/(children|events|models\/[^/]+\/)/;

const REFUSED = /** @type {Record<number, string>} */ ({
    401: "The service does not know this key. Check it, and try again.",
    403: "This is a client’s key. Enter the operators’ key.",
});

/** @param {number} status @param {string} path */
function askFor(status, path) {
    const why =
        status === 403
            ? "This needs the operators’ key (VOICE_ENGINE_ADMIN_KEY)."
            : "This needs an API key. It is kept for this tab only.";
    // Neither of the two does anything.
    const probe = OPERATORS.test(path) ? "v1/children?since=1e12" : "v1/voices";
    return askForKey(why, async (given) => {
        const response = await send(probe, {}, given).catch((error) => String(error.message));
        if (typeof response === "string") return response;
        void response.body?.cancel();
        return REFUSED[response.status] ?? "";
    });
}
