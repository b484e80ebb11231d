// @ts-check
/**
 * A field for a recording: from the microphone, from a file, or dropped.
 */

import { button, fill, icon, make } from "./dom.js";
import { clock } from "./sound.js";

const ENDINGS = /** @type {Record<string, string>} */ ({
    "audio/webm": "webm",
    "audio/ogg": "ogg",
    "audio/mp4": "m4a",
});
const NO_MICROPHONE =
    "A browser gives the microphone only to pages over HTTPS or from localhost. Choose a file.";

const LARGE = { class: "plain" };

export class RecordingField extends EventTarget {
    /** @type {File | null} */
    file = null;
    #host;
    #what;
    #problem = "";
    /** @type {MediaRecorder | null} */
    #recorder = null;
    #input = make("input", { type: "file", accept: "audio/*,video/webm,video/mp4", hidden: true });
    #time = make("span", { class: "time" });

    /**
     * @param {HTMLElement} host where it is
     * @param {string} what what is recorded, for labels: "the voice"
     */
    constructor(host, what) {
        super();
        this.#host = host;
        this.#what = what;
        host.classList.add("recording");
        this.#input.addEventListener("change", () => this.#take(this.#input.files?.[0] ?? null));
        for (const kind of ["dragenter", "dragover"]) {
            host.addEventListener(kind, (event) => {
                event.preventDefault();
                host.classList.add("over");
            });
        }
        host.addEventListener("dragleave", (event) => {
            const to = /** @type {DragEvent} */ (event).relatedTarget;
            if (!(to instanceof Node) || !host.contains(to)) host.classList.remove("over");
        });
        host.addEventListener("drop", (event) => {
            event.preventDefault();
            host.classList.remove("over");
            this.#take(event.dataTransfer?.files[0] ?? null);
        });
        this.#show();
    }

    /** Forget the recording. */
    clear() {
        this.#take(null);
    }

    /** @param {File | null} file */
    #take(file) {
        this.file = file;
        this.#problem = "";
        this.#input.value = "";
        this.#show();
        this.dispatchEvent(new Event("change"));
    }

    async #record() {
        if (!navigator.mediaDevices) {
            this.#fail(NO_MICROPHONE);
            return;
        }
        try {
            const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
            this.#begin(stream);
        } catch {
            this.#fail("The microphone cannot be used. Allow it for this page, or choose a file.");
        }
    }

    /** @param {MediaStream} stream */
    #begin(stream) {
        /** @type {Blob[]} */
        const pieces = [];
        const recorder = new MediaRecorder(stream);
        const begun = performance.now();
        const tick = setInterval(() => {
            this.#time.textContent = clock((performance.now() - begun) / 1000);
        }, 250);
        recorder.ondataavailable = (event) => pieces.push(event.data);
        recorder.onstop = () => {
            clearInterval(tick);
            for (const track of stream.getTracks()) track.stop();
            this.#recorder = null;
            const type = recorder.mimeType.split(";")[0] ?? "";
            this.#take(new File(pieces, `recording.${ENDINGS[type] ?? "webm"}`, { type }));
            this.#host.querySelector("button")?.focus();
        };
        this.#recorder = recorder;
        this.#problem = "";
        this.#time.textContent = clock(0);
        recorder.start();
        this.#show();
        this.#host.querySelector("button")?.focus();
    }

    /** @param {string} problem */
    #fail(problem) {
        this.#problem = problem;
        this.#show();
    }

    #show() {
        const problem = make("p", { class: "problem", role: "alert" }, this.#problem);
        if (this.#recorder) {
            const stop = button([icon("stop"), "Stop recording"], () => this.#recorder?.stop(), LARGE);
            fill(this.#host, make("span", { class: "live" }, "Recording"), this.#time, stop);
        } else if (this.file) {
            const size = Math.max(1, Math.round(this.file.size / 1024));
            fill(
                this.#host,
                make("span", { class: "file" }, this.file.name, make("small", {}, ` ${size} KB`)),
                button("Remove", () => this.clear(), { ...LARGE, "aria-label": "Remove the recording" }),
                this.#input,
            );
        } else {
            const record = button([icon("microphone"), "Record"], () => void this.#record(), {
                ...LARGE,
                "aria-label": `Record ${this.#what}`,
            });
            const choose = button("Choose a file", () => this.#input.click(), {
                ...LARGE,
                "aria-label": `Choose a file with ${this.#what}`,
            });
            const hint = make("span", { class: "muted" }, "or drop one here");
            fill(this.#host, record, choose, hint, this.#input, this.#problem && problem);
        }
    }
}
