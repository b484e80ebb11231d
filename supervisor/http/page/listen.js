// @ts-check
/**
 * The panel that listens: a recording in, its text out while it is recognized, each word with its
 * time.
 */

import { isAbort, request, sentence } from "./api.js";
import { catalog, models } from "./catalog.js";
import { CodeSample } from "./code.js";
import { button, byId, fill, make } from "./dom.js";
import { events } from "./events.js";
import { RecordingField } from "./recording.js";
import { clock, decoded, save } from "./sound.js";
import { srt, vtt } from "./subtitles.js";
import { Transport } from "./transport.js";

/**
 * A piece of the transcript, as the service's events tell it.
 * @typedef {object} Segment
 * @property {number} start
 * @property {number} end
 * @property {string} text
 * @property {string} language
 * @property {string} emotion
 * @property {string[]} events
 * @property {{word: string, start: number, end: number}[]} words
 */

const PATH = "v1/audio/transcriptions";
/** What the engines call it when they know no emotion. */
const UNKNOWN = "EMO_UNKNOWN";
/** The event that says no more than that there is speech. */
const SPEECH = "Speech";

const languageNames = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });

/** Set the panel up. */
export function listenPanel() {
    const form = /** @type {HTMLFormElement} */ (byId("listen-form"));
    const model = /** @type {HTMLSelectElement} */ (byId("listen-model"));
    const language = /** @type {HTMLSelectElement} */ (byId("listen-language"));
    const prompt = /** @type {HTMLInputElement} */ (byId("listen-prompt"));
    const go = /** @type {HTMLButtonElement} */ (byId("listen-go"));
    const stop = /** @type {HTMLButtonElement} */ (byId("listen-stop"));
    const status = byId("listen-status");
    const list = byId("listen-text");
    const recording = new RecordingField(byId("listen-recording"), "what to transcribe");
    const transport = new Transport("listen");
    const code = new CodeSample(byId("listen-code"), () => ({
        path: PATH,
        fields: fields(),
        file: { field: "file", name: recording.file?.name ?? "recording.wav" },
        output: null,
    }));

    /** @type {AbortController | null} */
    let running = null;
    /** @type {Segment[]} */
    let segments = [];
    /** @type {{start: number, element: HTMLElement}[]} */
    let words = [];

    function fields() {
        /** @type {Record<string, string | boolean>} */
        const set = { stream: true, "timestamp_granularities[]": "word" };
        if (model.value) set.model = model.value;
        if (language.value) set.language = language.value;
        if (prompt.value.trim()) set.prompt = prompt.value.trim();
        return set;
    }

    async function transcribe() {
        const { file } = recording;
        if (!file) return;
        running?.abort();
        const controller = (running = new AbortController());
        stop.disabled = false;
        segments = [];
        words = [];
        fill(list);
        fill(byId("listen-labels"));
        fill(byId("listen-downloads"));
        byId("listen-result").hidden = false;
        say("Listening…");
        const begun = performance.now();
        try {
            const body = new FormData();
            for (const [name, value] of Object.entries(fields())) body.append(name, String(value));
            body.append("file", file);
            const { signal } = controller;
            const response = await request(PATH, { method: "POST", body, signal });
            /** @type {any} */
            let whole = null;
            for await (const { data } of events(response)) {
                if (controller !== running) return;
                if (data.error) throw new Error(data.detail ?? data.error.message);
                if (data.type === "transcript.text.delta") add(data);
                if (data.type === "transcript.text.done") whole = data;
            }
            if (!whole) throw new TypeError("the stream ended early");
            finish(whole, file.name, (performance.now() - begun) / 1000);
        } catch (error) {
            if (controller !== running) return;
            const broken = error instanceof TypeError;
            const text = broken ? "The transcript broke off. Try again." : sentence(error);
            say(isAbort(error) ? "Stopped." : text, !isAbort(error));
        } finally {
            if (controller === running) {
                running = null;
                stop.disabled = true;
            }
        }
    }

    /** @param {string} text */
    function say(text, bad = false) {
        status.textContent = text;
        status.classList.toggle("bad", bad);
    }

    /** Show the next segment. @param {any} event */
    function add(event) {
        const segment = /** @type {Segment} */ ({ words: [], ...event, text: event.delta.trim() });
        const before = segments.at(-1);
        segments.push(segment);
        const parts = segment.words.length ? segment.words : [{ ...segment, word: segment.text }];
        const buttons = parts.map((each) => {
            const properties = { class: "word", title: `Hear it from ${clock(each.start)}` };
            const word = button(each.word.trim(), () => transport.playFrom(each.start), properties);
            words.push({ start: each.start, element: word });
            return [word, " "];
        });
        const labels = [
            before?.emotion === segment.emotion ? [] : emotionLabels(segment.emotion),
            String(before?.events) === String(segment.events) ? [] : eventLabels(segment.events),
        ];
        const time = make("span", { class: "muted time" }, clock(segment.start));
        list.append(make("li", {}, time, make("span", { class: "words" }, buttons.flat(), labels.flat())));
    }

    /** @param {any} whole @param {string} name @param {number} seconds */
    function finish(whole, name, seconds) {
        const known = whole.language && whole.language !== "nospeech";
        fill(
            byId("listen-labels"),
            known && make("span", { class: "label-quiet" }, languageName(whole.language)),
            emotionLabels(whole.emotion),
            eventLabels(whole.events ?? []),
        );
        if (!segments.length) fill(list, make("li", { class: "muted" }, "No speech was found."));
        say(`${whole.duration.toFixed(1)} s of sound in ${seconds.toFixed(1)} s.`);
        const base = name.replace(/\.[^.]*$/, "");
        const { type: _, ...rest } = whole;
        const asJson = { ...rest, segments: segments.map(plain) };
        const files = /** @type {[string, string, () => string][]} */ ([
            ["txt", "text/plain", () => `${whole.text}\n`],
            ["srt", "application/x-subrip", () => srt(segments)],
            ["vtt", "text/vtt", () => vtt(segments)],
            ["json", "application/json", () => JSON.stringify(asJson, null, 2)],
        ]);
        fill(
            byId("listen-downloads"),
            make("span", { class: "muted" }, "Download"),
            files.map(([ending, type, content]) =>
                button(ending, () => save(new Blob([content()], { type }), `${base}.${ending}`)),
            ),
        );
    }

    async function take() {
        running?.abort();
        transport.stop();
        const { file } = recording;
        go.disabled = !file;
        code.show();
        byId("listen-result").hidden = true;
        if (!file) return say("");
        const transcribed = transcribe();
        const sound = await decoded(file);
        if (file !== recording.file) return undefined;
        byId("listen-player").hidden = !sound;
        if (sound) {
            transport.begin(sound.rate);
            transport.add(sound.samples);
            transport.end();
        }
        return transcribed;
    }

    function showLists() {
        const listeners = models.filter((each) => each.kind === "stt");
        const [before, languageBefore] = [model.value, language.value];
        fill(
            model,
            make("option", { value: "" }, "The default one"),
            listeners.map((each) => make("option", {}, each.id)),
        );
        model.value = listeners.some((each) => each.id === before) ? before : "";
        byId("listen-model-field").hidden = listeners.length < 2;
        const codes = [...new Set(listeners.flatMap((each) => each.languages))];
        const named = codes.map((each) => ({ code: each, name: languageName(each) }));
        named.sort((a, b) => a.name.localeCompare(b.name));
        fill(
            language,
            make("option", { value: "" }, "Find out"),
            named.map((each) => make("option", { value: each.code }, each.name)),
        );
        language.value = codes.includes(languageBefore) ? languageBefore : "";
        code.show();
    }

    recording.addEventListener("change", () => void take());
    transport.addEventListener("place", (event) => {
        const place = /** @type {CustomEvent<number | null>} */ (event).detail;
        const heard = place === null ? undefined : words.findLast((word) => word.start <= place);
        for (const word of words) word.element.classList.toggle("heard", word === heard);
    });
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        void transcribe();
    });
    form.addEventListener("change", () => code.show());
    stop.addEventListener("click", () => running?.abort());
    document.addEventListener("keychange", () => code.show());
    catalog.addEventListener("change", showLists);
    showLists();
}

/** @param {string} code */
function languageName(code) {
    try {
        return languageNames.of(code) ?? code;
    } catch {
        return code;
    }
}

/** A quiet label; the word says it, the colour only helps. @param {string} emotion */
function emotionLabels(emotion) {
    if (!emotion || emotion === UNKNOWN) return [];
    const word = emotion.charAt(0) + emotion.slice(1).toLowerCase();
    return [make("span", { class: "label-quiet", "data-emotion": emotion }, word)];
}

/** @param {string[]} events */
function eventLabels(events) {
    const told = events.filter((each) => each !== SPEECH);
    return told.map((each) => make("span", { class: "label-quiet" }, each));
}

/** A segment for the JSON file. @param {Segment} segment */
function plain(segment) {
    const { start, end, text, language, emotion, events: heard, words } = segment;
    return { start, end, text, language, emotion, events: heard, words };
}
