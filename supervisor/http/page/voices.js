// @ts-check
/**
 * The panel with the voices: hear, register and delete them.
 */

import { json, request, sentence } from "./api.js";
import { catalog, groups, load } from "./catalog.js";
import { ask } from "./dialog.js";
import { button, byId, fill, icon, make } from "./dom.js";
import { Player } from "./player.js";
import { RecordingField } from "./recording.js";
import { decoded } from "./sound.js";

/** What a voice says to be heard, in its own language. */
const SAMPLES = /** @type {Record<string, string>} */ ({
    en: "Hello. This is how I sound.",
    de: "Hallo. So klinge ich.",
    fr: "Bonjour. Voici ma voix.",
    es: "Hola. Así suena mi voz.",
    it: "Ciao. Questa è la mia voce.",
    pt: "Olá. Esta é a minha voz.",
    ja: "こんにちは。これが わたしの こえです。",
    zh: "你好。这是我的声音。",
    hi: "नमस्ते। यह मेरी आवाज़ है।",
});

/** @type {Player | null} */
let sample = null;

/** Set the panel up. */
export function voicesPanel() {
    const form = /** @type {HTMLFormElement} */ (byId("register-form"));
    const name = /** @type {HTMLInputElement} */ (byId("register-name"));
    const id = /** @type {HTMLInputElement} */ (byId("register-id"));
    const consent = /** @type {HTMLInputElement} */ (byId("register-consent"));
    const agreed = /** @type {HTMLInputElement} */ (byId("register-agreed"));
    const go = /** @type {HTMLButtonElement} */ (byId("register-go"));
    const recording = new RecordingField(byId("register-recording"), "the voice to register");

    function problem() {
        if (!recording.file) return "Record the voice, or choose a file with it.";
        if (!id.value.trim()) return "Give the voice an id.";
        if (!/^[A-Za-z0-9_-]{1,64}$/.test(id.value.trim())) {
            return "The id has letters, digits, - and _ only.";
        }
        if (!consent.value.trim()) return "Write who agreed, when and how.";
        if (!agreed.checked) return "Confirm that the person has agreed.";
        return "";
    }

    async function register() {
        const found = problem();
        say("register-status", found, Boolean(found));
        if (found) return;
        const body = new FormData();
        body.append("voice_id", id.value.trim());
        body.append("name", name.value.trim() || id.value.trim());
        body.append("consent", consent.value.trim());
        body.append("audio", /** @type {File} */ (recording.file));
        go.disabled = true;
        say("register-status", "Trying the voice…");
        try {
            await json("v1/voices/register", { method: "POST", body });
            const registered = name.value.trim() || id.value.trim();
            form.reset();
            recording.clear();
            await load();
            say("register-status", `${registered} is registered.`);
        } catch (error) {
            say("register-status", sentence(error), true);
        } finally {
            go.disabled = false;
        }
    }

    name.addEventListener("input", () => {
        if (id.dataset.own) return;
        const letters = name.value.normalize("NFKD").replace(/\p{M}/gu, "");
        id.value = letters.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-+|-+$/g, "").toLowerCase();
    });
    id.addEventListener("input", () => {
        if (id.value) id.dataset.own = "true";
        else delete id.dataset.own;
    });
    form.addEventListener("reset", () => delete id.dataset.own);
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        void register();
    });
    catalog.addEventListener("change", show);
}

function show() {
    fill(
        byId("voices-list"),
        groups().map((group) =>
            make(
                "section",
                { class: "card" },
                make("h3", {}, group.title),
                make("ul", { class: "voices" }, group.voices.map(row)),
            ),
        ),
    );
}

/** @param {import("./catalog.js").Voice} voice */
function row(voice) {
    const hear = button(icon("play"), () => void play(voice, hear), {
        class: "round small",
        "aria-label": `Hear ${voice.name}`,
    });
    const facts = [
        voice.id,
        voice.language,
        voice.seconds ? `${voice.seconds.toFixed(1)} s` : null,
        voice.created ? new Date(voice.created).toLocaleDateString() : null,
        voice.consent ? `agreed: ${voice.consent}` : null,
    ].filter(Boolean);
    const remove =
        voice.type === "registered" &&
        button([icon("bin"), "Delete"], () => void forget(voice), {
            "aria-label": `Delete ${voice.name}`,
        });
    const text = make(
        "div",
        { class: "grow" },
        make("strong", {}, voice.name),
        make("small", {}, facts.join(" · ")),
    );
    return make("li", { "data-voice": voice.id }, hear, text, remove);
}

/** @param {import("./catalog.js").Voice} voice @param {HTMLButtonElement} pressed */
async function play(voice, pressed) {
    pressed.disabled = true;
    pressed.classList.add("busy");
    say("voices-status", `${voice.name} begins to speak…`);
    try {
        const text = SAMPLES[(voice.language ?? "en").slice(0, 2)] ?? SAMPLES["en"];
        const body = JSON.stringify({ text, voice_id: voice.id });
        const headers = { "Content-Type": "application/json" };
        const response = await request("v1/tts", { method: "POST", headers, body });
        const sound = await decoded(await response.blob());
        if (!sound) throw new Error("This browser cannot play the sound.");
        sample?.pause();
        sample = new Player(sound.rate);
        sample.add(sound.samples);
        sample.end();
        sample.play(0);
        say("voices-status", `${voice.name} speaks.`);
    } catch (error) {
        say("voices-status", sentence(error), true);
    } finally {
        pressed.disabled = false;
        pressed.classList.remove("busy");
    }
}

/** @param {import("./catalog.js").Voice} voice */
async function forget(voice) {
    const sure = await ask({
        title: `Delete ${voice.name}?`,
        text: "The recording, the voice and the note about consent are removed. This cannot be undone.",
        verb: "Delete",
        danger: true,
    });
    if (!sure) return;
    try {
        await json(`v1/voices/${encodeURIComponent(voice.id)}`, { method: "DELETE" });
        await load();
        say("voices-status", `${voice.name} is deleted.`);
    } catch (error) {
        say("voices-status", sentence(error), true);
    }
}

/** @param {string} where @param {string} text */
function say(where, text, bad = false) {
    const status = byId(where);
    status.textContent = text;
    status.classList.toggle("bad", bad);
}
