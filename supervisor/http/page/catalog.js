// @ts-check
/**
 * The voices and models of the service, asked for once and again after a change.
 */

import { json } from "./api.js";

/**
 * @typedef {object} Voice
 * @property {string} id
 * @property {string} name
 * @property {"builtin" | "registered" | "cached"} type
 * @property {string} engine
 * @property {string | null} model
 * @property {string | null} language
 * @property {number | null} seconds
 * @property {string | null} created
 * @property {string | null} consent
 */

/**
 * @typedef {object} Model
 * @property {string} id
 * @property {string} engine
 * @property {"tts" | "stt"} kind
 * @property {boolean} default
 * @property {string[]} languages
 * @property {string[]} options
 */

/** @type {Voice[]} */
export let voices = [];
/** @type {Model[]} Each once, under its own name. */
export let models = [];

/** Tells of a "change" after each `load`. */
export const catalog = new EventTarget();

/** Ask the service. Throws `Refusal`. */
export async function load() {
    const [heard, listed] = await Promise.all([json("v1/voices"), json("v1/models")]);
    voices = heard.voices;
    models = listed.data.filter((/** @type {Model} */ model) => model.id === model.engine);
    catalog.dispatchEvent(new Event("change"));
}

/**
 * Voices in the order of the page, grouped as people look for them.
 * @returns {{title: string, voices: Voice[]}[]}
 */
export function groups() {
    const registered = voices.filter((voice) => voice.type === "registered");
    const cached = voices.filter((voice) => voice.type === "cached");
    /** @type {Map<string, Voice[]>} */
    const builtin = new Map();
    for (const voice of voices) {
        if (voice.type !== "builtin") continue;
        builtin.set(voice.engine, [...(builtin.get(voice.engine) ?? []), voice]);
    }
    return [
        { title: "Registered", voices: registered },
        ...[...builtin].map(([engine, all]) => ({ title: `Built into ${engine}`, voices: all })),
        { title: "From earlier recordings", voices: cached },
    ].filter((group) => group.voices.length);
}
