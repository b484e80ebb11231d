// @ts-check
/**
 * The service's events as they happen, the newest first. The stream is open only while it is shown;
 * after a break it goes on behind the last event that it has.
 */

import { isAbort, request, sentence } from "./api.js";
import { timeOf } from "./chart.js";
import { byId, make } from "./dom.js";
import { events } from "./events.js";

const KEPT = 300;
/** Milliseconds before a new try, at first and at most. */
const [PAUSE, LONGEST] = [1000, 15000];

export class EventLog {
    #list = byId("events");
    #status = byId("events-status");
    /** @type {string | null} */
    #last = null;
    /** @type {AbortController | null} */
    #open = null;

    constructor() {
        const worrying = /** @type {HTMLInputElement} */ (byId("events-worrying"));
        worrying.addEventListener("change", () => {
            this.#list.classList.toggle("worrying", worrying.checked);
        });
    }

    start() {
        if (this.#open) return;
        this.#open = new AbortController();
        void this.#run(this.#open.signal);
    }

    stop() {
        this.#open?.abort();
        this.#open = null;
    }

    /** @param {AbortSignal} signal */
    async #run(signal) {
        for (let pause = PAUSE; !signal.aborted; pause = Math.min(2 * pause, LONGEST)) {
            try {
                /** @type {Record<string, string>} */
                const headers = this.#last ? { "Last-Event-ID": this.#last } : {};
                const response = await request("v1/events", { headers, signal, quiet: true });
                this.#status.textContent = "";
                pause = PAUSE;
                for await (const event of events(response)) {
                    if (event.id === this.#last) continue;
                    this.#last = event.id;
                    this.#add(event.data);
                }
                this.#status.textContent = "The stream has ended. It is opened again…";
            } catch (error) {
                if (isAbort(error) || signal.aborted) return;
                const broken = error instanceof TypeError;
                this.#status.textContent = broken ? "The connection broke off." : sentence(error);
            }
            await new Promise((resolve) => setTimeout(resolve, pause));
        }
    }

    /** @param {Record<string, any>} event */
    #add(event) {
        const { id: _, time, event: name, level, ...fields } = event;
        const text = (/** @type {any} */ value) =>
            typeof value === "object" ? JSON.stringify(value) : value;
        const details = Object.entries(fields)
            .filter(([, value]) => value !== null && value !== "")
            .map(([field, value]) => `${field} ${text(value)}`);
        const worrying = ["warning", "error"].includes(level);
        this.#list.prepend(
            make(
                "li",
                { "data-level": level, "data-event": name },
                make("time", { dateTime: time }, timeOf(Date.parse(time) / 1000)),
                make("strong", {}, name.replaceAll("_", " ")),
                worrying && make("span", { class: "pill", "data-level": level }, level),
                make("span", { class: "muted" }, details.join(" · ")),
            ),
        );
        while (this.#list.childElementCount > KEPT) this.#list.lastElementChild?.remove();
    }
}
