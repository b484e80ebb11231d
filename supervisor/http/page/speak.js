// @ts-check
/**
 * The panel that speaks: text and voice in, sound out while it is made.
 */

import { isAbort, request, sentence } from "./api.js";
import { catalog, groups, models, voices } from "./catalog.js";
import { CodeSample } from "./code.js";
import { button, byId, fill, make } from "./dom.js";
import { liveSpeech } from "./live.js";
import { RecordingField } from "./recording.js";
import { PcmReader, save, wav } from "./sound.js";
import { Transport } from "./transport.js";

const FORMATS = /** @type {const} */ (["wav", "mp3", "opus", "flac", "aac", "pcm"]);
/** @typedef {typeof FORMATS[number]} Format */
const ENDING = /** @type {Record<string, string>} */ ({ opus: "ogg" });

/** The value in the list of voices that means: not one of them. No id has a space. */
const RECORDING = " ";

/** The headers that tell what was not taken literally. */
const NOTES = ["X-Voice-Approximation", "X-Voice-Engine-Warning"];

/** @typedef {Record<string, string | number | boolean>} Fields */

/** Set the panel up. */
export function speakPanel() {
    const form = /** @type {HTMLFormElement} */ (byId("speak-form"));
    const text = /** @type {HTMLTextAreaElement} */ (byId("speak-text"));
    const voice = /** @type {HTMLSelectElement} */ (byId("speak-voice"));
    const model = /** @type {HTMLSelectElement} */ (byId("speak-model"));
    const speed = /** @type {HTMLInputElement} */ (byId("speak-speed"));
    const normalize = /** @type {HTMLInputElement} */ (byId("speak-normalize"));
    const go = /** @type {HTMLButtonElement} */ (byId("speak-go"));
    const stop = /** @type {HTMLButtonElement} */ (byId("speak-stop"));
    const status = byId("speak-status");
    const transport = new Transport("speak");
    const recording = new RecordingField(byId("speak-recording"), "the voice to speak in");
    const format = make(
        "select",
        { id: "code-format", "aria-label": "Format of the sound" },
        FORMATS.map((each) => make("option", {}, each)),
    );
    const code = new CodeSample(byId("speak-code"), () => call(format.value), format);
    const input = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (byId(id)).value.trim();

    /** @type {AbortController | null} */
    let running = null;

    /** The engine that will speak, as far as the page knows. */
    function engine() {
        const chosen = voices.find((each) => each.id === voice.value && each.type === "builtin");
        const name = chosen?.engine ?? model.value;
        const speakers = models.filter((each) => each.kind === "tts");
        return speakers.find((each) => each.id === name) ?? speakers.find((each) => each.default);
    }

    /**
     * The fields of the request as the user has set them.
     * @returns {Fields}
     */
    function fields() {
        /** @type {Fields} */
        const set = { text: text.value };
        if (voice.value && voice.value !== RECORDING) set.voice_id = voice.value;
        if (speed.valueAsNumber !== 1) set.speed = speed.valueAsNumber;
        if (input("speak-language")) set.language = input("speak-language");
        if (!normalize.checked) set.text_normalization = "off";
        if (!byId("speak-model-field").hidden && model.value) set.model = model.value;
        if (input("speak-seed")) set.seed = Number(input("speak-seed"));
        for (const field of optional()) {
            const value = /** @type {HTMLInputElement} */ (field.querySelector("input")).valueAsNumber;
            if (!field.hidden && !Number.isNaN(value)) set[field.dataset.option ?? ""] = value;
        }
        return set;
    }

    /** @returns {NodeListOf<HTMLElement>} The options that only some engines have. */
    function optional() {
        return form.querySelectorAll("[data-option]");
    }

    /** @param {string} wanted @returns {import("./code.js").Call} */
    function call(wanted) {
        const cloned = voice.value === RECORDING;
        const name = recording.file?.name ?? "voice.wav";
        return {
            path: cloned ? "v1/clone" : "v1/tts",
            fields: { ...fields(), response_format: wanted, stream: true },
            file: cloned ? { field: "reference_audio", name } : null,
            output: `speech.${ENDING[wanted] ?? wanted}`,
        };
    }

    /** @param {Fields} wanted @param {AbortSignal} [signal] */
    function send(wanted, signal) {
        const init = { method: "POST", ...(signal ? { signal } : {}) };
        if (voice.value !== RECORDING) {
            const headers = { "Content-Type": "application/json" };
            return request("v1/tts", { ...init, headers, body: JSON.stringify(wanted) });
        }
        const body = new FormData();
        for (const [name, value] of Object.entries(wanted)) body.append(name, String(value));
        body.append("reference_audio", /** @type {File} */ (recording.file));
        return request("v1/clone", { ...init, body });
    }

    function problem() {
        if (!text.value.trim()) return "Write a text to speak.";
        if (voice.value === RECORDING && !recording.file) {
            return "Record the voice, or choose a file with it.";
        }
        const seed = input("speak-seed");
        if (seed && !/^\d+$/.test(seed)) return "The seed is a whole number, 0 or more.";
        return "";
    }

    async function speak() {
        running?.abort();
        status.textContent = problem();
        status.classList.toggle("bad", Boolean(status.textContent));
        if (status.textContent) return;
        const controller = (running = new AbortController());
        stop.disabled = false;
        status.textContent = "Waiting for the first sound…";
        // With a seed of our own the downloads are the same speech.
        const wanted = { seed: Math.floor(Math.random() * 2 ** 32), ...fields() };
        const begun = performance.now();
        try {
            const streamed = { ...wanted, stream: true, response_format: "pcm" };
            // A session is silent about a text without words, a request is refused.
            const fit = voice.value !== RECORDING && /[\p{L}\p{N}]/u.test(text.value);
            const live = fit && (await liveSpeech(wanted, controller.signal));
            const response = live || (await send(streamed, controller.signal));
            await hear(response, begun);
            offer(wanted);
        } catch (error) {
            if (controller !== running) return;
            transport.end();
            status.textContent = isAbort(error) ? "Stopped." : sentence(broken(error));
            status.classList.toggle("bad", !isAbort(error));
        } finally {
            if (controller === running) {
                running = null;
                stop.disabled = !transport.player?.active;
            }
        }
    }

    /** @type {BlobPart[]} */
    let pcm = [];
    let rate = 0;

    /** Play and draw a response as it comes. @param {Response} response @param {number} begun */
    async function hear(response, begun) {
        if (!response.body) throw new Error("This browser cannot read streams. Use a newer one.");
        rate = Number(response.headers.get("X-Sample-Rate"));
        const notes = NOTES.map((name) => response.headers.get(name));
        pcm = [];
        fill(byId("speak-downloads"));
        byId("speak-sound").hidden = false;
        transport.begin(rate);
        const samples = new PcmReader();
        const reader = response.body.getReader();
        let first = 0;
        for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
            pcm.push(piece.value);
            transport.add(samples.read(piece.value));
            if (first) continue;
            first = (performance.now() - begun) / 1000;
            transport.playFrom(0);
            status.textContent = `First sound after ${first.toFixed(2)} s.`;
        }
        transport.end();
        const seconds = (/** @type {number} */ value) => `${value.toFixed(1)} s`;
        const spent = (performance.now() - begun) / 1000;
        const made = transport.player?.duration ?? 0;
        status.textContent = [
            `First sound after ${first.toFixed(2)} s, ${seconds(made)} of sound in ${seconds(spent)}.`,
            ...notes.filter((note) => note).map((note) => sentence(note)),
        ].join(" ");
    }

    /** The downloads of what was heard. @param {Fields} wanted */
    function offer(wanted) {
        const buttons = FORMATS.map((each) => button(each, () => void download(each, wanted)));
        fill(byId("speak-downloads"), make("span", { class: "muted" }, "Download"), buttons);
    }

    /** @param {Format} wanted @param {Fields} spoken */
    async function download(wanted, spoken) {
        format.value = wanted;
        code.show();
        const name = `speech.${ENDING[wanted] ?? wanted}`;
        if (wanted === "pcm") return save(new Blob(pcm, { type: "audio/pcm" }), name);
        if (wanted === "wav") return save(wav(pcm, rate), name);
        status.textContent = `Making the ${wanted}…`;
        status.classList.remove("bad");
        try {
            const response = await send({ ...spoken, response_format: wanted });
            save(await response.blob(), name);
            status.textContent = `Saved as ${name}.`;
        } catch (error) {
            status.textContent = sentence(broken(error));
            status.classList.add("bad");
        }
        return undefined;
    }

    function showChoice() {
        byId("speak-recording").hidden = voice.value !== RECORDING;
        const speakers = models.filter((each) => each.kind === "tts");
        const fixed = voices.some((each) => each.id === voice.value && each.type === "builtin");
        byId("speak-model-field").hidden = speakers.length < 2 || fixed;
        const options = engine()?.options ?? [];
        for (const field of optional()) field.hidden = !options.includes(field.dataset.option ?? "");
        byId("speak-speed-now").textContent = `${speed.value}×`;
        code.show();
    }

    function showLists() {
        const [before, modelBefore] = [voice.value, model.value];
        fill(
            voice,
            make("option", { value: "" }, "The service’s own"),
            make("option", { value: RECORDING }, "A recording of yours…"),
            groups().map((group) =>
                make(
                    "optgroup",
                    { label: group.title },
                    group.voices.map((each) => make("option", { value: each.id }, each.name)),
                ),
            ),
        );
        voice.value = [...voice.options].some((each) => each.value === before) ? before : "";
        fill(
            model,
            make("option", { value: "" }, "The default one"),
            models.filter((each) => each.kind === "tts").map((each) => make("option", {}, each.id)),
        );
        model.value = models.some((each) => each.id === modelBefore) ? modelBefore : "";
        showChoice();
    }

    form.addEventListener("submit", (event) => {
        event.preventDefault();
        void speak();
    });
    text.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(go);
    });
    stop.addEventListener("click", () => {
        running?.abort();
        transport.stop();
    });
    transport.addEventListener("place", () => {
        stop.disabled = !running && !transport.player?.active;
    });
    form.addEventListener("input", showChoice);
    form.addEventListener("change", showChoice);
    format.addEventListener("change", () => code.show());
    recording.addEventListener("change", () => code.show());
    document.addEventListener("keychange", () => code.show());
    catalog.addEventListener("change", showLists);
    showLists();
}

/** @param {unknown} error What a stream that breaks off means. */
function broken(error) {
    return error instanceof TypeError ? new Error("The sound broke off. Try again.") : error;
}
