// @ts-check
/**
 * The panel that shows how the service is: its models, each process with its memory over time, its
 * events, and the buttons with which an operator acts.
 */

import { Refusal, address, json, sendJson, sentence } from "./api.js";
import { MemoryChart } from "./chart.js";
import { ask } from "./dialog.js";
import { button, byId, fill, make } from "./dom.js";
import { EventLog } from "./log.js";
import { Spark } from "./spark.js";

/** @typedef {import("./chart.js").Process} Process */

/** Milliseconds between two looks. */
const INTERVAL = 2000;
/** How many ended processes are kept. */
const ENDED = 50;

/** How many samples of a process are kept: more than a chart has pixels. */
const SAMPLES = 1500;

const KINDS = /** @type {Record<string, string>} */ ({ tts: "speech", stt: "transcription" });

/**
 * All processes that were seen, by name and start: a name may come again.
 * @type {Map<string, Process>}
 */
const processes = new Map();
/**
 * What was seen of each model: time, requests that wait, that run, seconds of work, real-time factor.
 * @typedef {[number, number, number, number, number | null]} Load
 * @type {Map<string, Load[]>}
 */
const loads = new Map();
/** @type {Map<string, Card>} */
const cards = new Map();
let since = 0;
/** Whether the operators' part is refused; then only the open part is shown. */
let refused = false;

/** Set the panel up; the result is to be called with the name of the tab that is shown. */
export function healthPanel() {
    const log = new EventLog();
    let shown = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;

    async function look() {
        clearTimeout(timer);
        await refresh();
        if (!refused) log.start();
        if (shown && !document.hidden) timer = setTimeout(() => void look(), INTERVAL);
    }

    function update() {
        if (shown && !document.hidden) {
            void look();
        } else {
            clearTimeout(timer);
            log.stop();
        }
    }

    document.addEventListener("visibilitychange", update);
    return (/** @type {string} */ tab) => {
        if (shown === (tab === "health")) return;
        shown = tab === "health";
        refused = false;
        update();
    };
}

/** Look at the service once, and show what it says. */
async function refresh() {
    try {
        const health = await readHealth();
        summary(health);
        if (!refused) await readProcesses();
        for (const [name, model] of Object.entries(health.models)) {
            let card = cards.get(name);
            if (!card) {
                card = new Card(name);
                cards.set(name, card);
                byId("health-models").append(card.element);
            }
            card.show(model, health.children, since);
        }
        for (const [name, card] of cards) {
            if (name in health.models) continue;
            card.element.remove();
            cards.delete(name);
        }
        tell(refused ? NEEDS_KEY : "");
    } catch (error) {
        tell(sentence(error), true);
    }
}

/** Say something once: a screen reader reads it again whenever it is set. @param {string} text */
function tell(text, bad = false) {
    const status = byId("health-status");
    if (status.textContent !== text) status.textContent = text;
    status.classList.toggle("bad", bad);
}

/** The health, also when it is bad: then its status is 503. */
async function readHealth() {
    const response = await fetch(address("health"), { cache: "no-store" }).catch(() => null);
    if (!response) throw new Refusal("The service cannot be reached. Check that it runs.", 0);
    return response.json();
}

/** Add what is new in `/v1/children` to what is known. */
async function readProcesses() {
    try {
        const news = await json(since ? `v1/children?since=${since}` : "v1/children");
        since = news.now;
        for (const child of news.children) {
            const id = `${child.name} ${child.started}`;
            const known = processes.get(id);
            const last = known?.samples.at(-1)?.[0] ?? 0;
            /** @type {Process["samples"]} */
            const fresh = child.samples.filter((/** @type {number[]} */ each) => Number(each[0]) > last);
            processes.set(id, { ...child, samples: thinned([...(known?.samples ?? []), ...fresh]) });
        }
        for (const [model, { samples }] of Object.entries(news.models)) {
            const known = loads.get(model) ?? [];
            const last = known.at(-1)?.[0] ?? 0;
            const fresh = samples.filter((/** @type {Load} */ each) => each[0] > last);
            loads.set(model, [...known, ...fresh].slice(-SAMPLES));
        }
        const ended = [...processes].filter(([, each]) => each.ended !== null);
        for (const [id] of ended.slice(0, -ENDED)) processes.delete(id);
    } catch (error) {
        if (!(error instanceof Refusal) || ![401, 403].includes(error.status)) throw error;
        refused = true;
    }
}

/**
 * Every second sample, and the last one, when there are too many.
 * @param {Process["samples"]} samples
 */
function thinned(samples) {
    if (samples.length <= SAMPLES) return samples;
    return samples.filter((_, i) => i % 2 === 0 || i === samples.length - 1);
}

const NEEDS_KEY =
    "Memory over time, events and acts need the operators’ key. Open this tab again to enter it.";

/** @param {any} health */
function summary(health) {
    const { memory, cores } = health;
    const share = memory.usage_mb === null ? 0 : memory.usage_mb / memory.limit_mb;
    const used = `${megabytes(memory.usage_mb)} of ${megabytes(memory.limit_mb)}`;
    const fact = (/** @type {string} */ name, /** @type {any} */ value, /** @type {any} */ more = null) =>
        make(
            "div",
            { class: "fact" },
            make("span", { class: "muted" }, name),
            make("span", { class: "value" }, value),
            more,
        );
    fill(
        byId("health-summary"),
        fact("Service", pill(health.status)),
        fact("Memory", used, bar(share)),
        fact("Cores", `${cores.count}`),
        fact("Front", megabytes(memory.front_rss_mb)),
        fact("Up", age(health.uptime_s)),
        fact("Version", health.version),
    );
}

/** What an operator can do to a model. */
const MODEL_ACTS = /** @type {const} */ (["scale", "reload", "pause", "unload"]);

const EXPLAINED = /** @type {Record<string, string>} */ ({
    recycle: "Its successor is ready before it ends. No request is lost.",
    kill: "It ends at once. Its requests are run again on another worker.",
    scale: "Workers are added, or end when they are idle.",
    reload: "The weights are loaded again; the old workers serve until the new ones are ready.",
    pause: "Running requests finish, new ones wait.",
    resume: "Requests that wait go on.",
    unload: "Its processes end. The next request loads it again.",
});

/** The part of the panel about one model. */
class Card {
    #title = make("h3", { tabIndex: -1 });
    #state = make("span");
    #facts = make("dl", { class: "facts" });
    #waiting = new Spark();
    #factor = new Spark();
    #trouble = make("div", { class: "trouble", hidden: true });
    #notes = make("ul");
    #more = make("details", { class: "more" }, make("summary", {}, "Notes"), this.#notes);
    #rows = make("tbody");
    #status = make("p", { class: "status", role: "status" });
    #chart;
    #model;
    /** @type {any} */
    #last = null;
    /** @type {Map<string, HTMLButtonElement>} */
    #buttons = new Map();
    /** @type {Map<string, Row>} */
    #children = new Map();

    /** @param {string} name */
    constructor(name) {
        this.#model = name;
        this.#chart = new MemoryChart(`Memory of ${name} over time`);
        for (const act of MODEL_ACTS) {
            this.#buttons.set(act, button(capital(act), () => void this.#act(act)));
        }
        const heads = ["Process", "State", "Requests", "Memory", "Age", "Acts"];
        this.element = make(
            "section",
            { class: "card model", "data-model": name, "aria-label": `Model ${name}` },
            make(
                "div",
                { class: "card-head" },
                make("div", { class: "grow" }, this.#title, this.#state),
                make("div", { class: "acts" }, ...this.#buttons.values()),
            ),
            this.#trouble,
            this.#facts,
            this.#chart.element,
            make(
                "table",
                { class: "processes" },
                make("caption", { class: "unseen" }, `Processes of ${name}`),
                make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
                this.#rows,
            ),
            this.#status,
            this.#more,
        );
    }

    /** @param {any} model @param {any[]} children @param {number} now */
    show(model, children, now) {
        this.#last = model;
        const kind = KINDS[model.kind] ?? model.kind;
        fill(this.#title, model.engine, " ", make("small", {}, `${kind} · ${this.#model}`));
        fill(this.#state, pill(model.paused ? "PAUSED" : model.state));
        const pause = this.#buttons.get("pause");
        if (pause) pause.textContent = model.paused ? "Resume" : "Pause";
        const factor = model.real_time_factor;
        const fact = (/** @type {string} */ name, /** @type {any[]} */ ...value) =>
            make("div", {}, make("dt", {}, name), make("dd", {}, value));
        fill(
            this.#facts,
            fact("Waiting", `${model.queued} (${model.backlog_s.toFixed(1)} s)`, this.#waiting.element),
            fact("Real-time factor", factor?.toFixed(2) ?? "–", this.#factor.element),
            fact("Running", `${model.in_flight}, ${model.free_slots} free`),
            fact("Workers", model.workers),
            fact("Replays", model.replays),
        );
        const load = loads.get(this.#model) ?? [];
        this.#waiting.show(load.map((each) => [each[0], each[1]]), now);
        this.#factor.show(load.map((each) => [each[0], each[4]]), now);
        this.#showTrouble(model);
        fill(this.#notes, model.notes.map((/** @type {string} */ note) => make("li", {}, note)));
        this.#more.hidden = !model.notes.length;
        this.#showChildren(children.filter((child) => child.model === this.#model));
        this.#chart.show([...processes.values()].filter((each) => each.model === this.#model), now);
    }

    /** What is wrong, and what mends it. @param {any} model */
    #showTrouble(model) {
        const lines = [model.hint ?? model.message].filter(Boolean);
        const wait = Math.ceil(model.retry_in_s);
        const retry = wait > 0 ? `The next try is in ${wait} s.` : "";
        const text = [...lines, retry].filter(Boolean).join("\n");
        if (this.#trouble.dataset.text === text) return;
        this.#trouble.dataset.text = text;
        this.#trouble.hidden = !text;
        fill(this.#trouble, lines.map((each) => make("p", {}, each)), retry && make("p", {}, retry));
    }

    /** @param {any[]} children */
    #showChildren(children) {
        const names = new Set();
        for (const child of children) {
            const id = `${child.name} ${child.pid}`;
            names.add(id);
            let row = this.#children.get(id);
            if (!row) {
                row = new Row(child, (act) => void this.#act(act, child.name));
                this.#children.set(id, row);
                this.#rows.append(row.element);
            }
            row.show(child);
        }
        for (const [id, row] of this.#children) {
            if (names.has(id)) continue;
            // Who has pressed a button of it stays near.
            if (row.element.contains(document.activeElement)) this.#title.focus();
            row.element.remove();
            this.#children.delete(id);
        }
    }

    /** Ask why, and act on a child or on the model. @param {string} act @param {string} [child] */
    async #act(act, child) {
        const verb = act === "pause" && this.#last?.paused ? "resume" : act;
        const target = child ?? this.#model;
        const scales = verb === "scale";
        const number = { label: "Workers", value: this.#last?.workers ?? 1, min: 1, max: 64 };
        const answer = await ask({
            title: `${capital(verb)} ${target}`,
            text: EXPLAINED[verb] ?? "",
            verb: capital(verb),
            why: true,
            danger: verb === "kill",
            ...(scales ? { number } : {}),
        });
        if (!answer) return;
        const part = child ? "children" : "models";
        const path = `v1/${part}/${encodeURIComponent(target)}/${verb}`;
        const body = { reason: answer.why, ...(scales ? { workers: answer.number } : {}) };
        try {
            const done = await sendJson("POST", path, body);
            this.#say(`${target}: ${done.status}.`);
        } catch (error) {
            this.#say(sentence(error), true);
        }
        await refresh();
    }

    /** @param {string} text */
    #say(text, bad = false) {
        this.#status.textContent = text;
        this.#status.classList.toggle("bad", bad);
    }
}

/** One process in the table. */
class Row {
    #state = make("td", { "data-head": "State" });
    #requests = make("td", { "data-head": "Requests" });
    #memory = make("td", { "data-head": "Memory" });
    #age = make("td", { "data-head": "Age" });

    /** @param {any} child @param {(act: string) => void} act */
    constructor(child, act) {
        const acts = child.role === "worker" ? ["recycle", "kill"] : ["kill"];
        const buttons = acts.map((each) => {
            const risky = each === "kill" ? " risky" : "";
            return button(capital(each), () => act(each), {
                class: `plain small${risky}`,
                "aria-label": `${capital(each)} ${child.name}`,
            });
        });
        this.element = make(
            "tr",
            { "data-child": child.name, "data-pid": child.pid },
            make("th", { scope: "row" }, child.name, make("small", {}, ` pid ${child.pid}`)),
            this.#state,
            this.#requests,
            this.#memory,
            this.#age,
            make("td", { class: "acts" }, buttons),
        );
    }

    /** @param {any} child */
    show(child) {
        fill(this.#state, pill(child.state));
        const { capacity } = child;
        const slots = capacity === null ? "" : `${child.in_flight ?? 0} of ${capacity} slots`;
        fill(this.#requests, child.requests ?? "–", slots && make("small", {}, ` · ${slots}`));
        const limit = child.hard_limit_mb ?? child.soft_limit_mb;
        fill(
            this.#memory,
            megabytes(child.rss_mb),
            limit && make("small", {}, ` of ${megabytes(limit)}`),
            limit && child.rss_mb && bar(child.rss_mb / limit),
        );
        fill(this.#age, age(child.uptime_s));
    }
}

/** A state as a word with a quiet colour. @param {string} state */
function pill(state) {
    return make("span", { class: "pill", "data-state": state }, state.toLowerCase());
}

/** A share as a bar, for the eye: the numbers stand beside it. @param {number} share */
function bar(share) {
    const inner = make("span");
    inner.style.width = `${Math.min(100, 100 * share)}%`;
    return make("span", { class: "bar", "aria-hidden": "true", "data-full": share > 0.9 }, inner);
}

/** @param {number | null} mb */
function megabytes(mb) {
    if (mb === null) return "–";
    return mb < 1024 ? `${Math.round(mb)} MB` : `${(mb / 1024).toFixed(1)} GB`;
}

/** @param {number} seconds */
function age(seconds) {
    if (seconds < 60) return `${Math.round(seconds)} s`;
    if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
    if (seconds < 172_800) return `${(seconds / 3600).toFixed(1)} h`;
    return `${Math.round(seconds / 86_400)} days`;
}

/** @param {string} word */
function capital(word) {
    return word.charAt(0).toUpperCase() + word.slice(1);
}
