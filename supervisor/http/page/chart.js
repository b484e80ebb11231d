// @ts-check
/**
 * The memory of one model's processes over time, against their limits: each worker is a line, and the
 * end of each has a mark with its number in the list below. Drawn with uPlot.
 */

import { colour, fill, make } from "./dom.js";

/**
 * A process, as `/v1/children` tells it.
 * @typedef {object} Process
 * @property {string} name
 * @property {"worker" | "template" | "front"} role
 * @property {string | null} model
 * @property {number} pid
 * @property {number} started
 * @property {number | null} ended
 * @property {string | null} end_reason
 * @property {string} state
 * @property {number | null} soft_limit_mb
 * @property {number | null} hard_limit_mb
 * @property {number | null} requests
 * @property {[number, number][]} samples
 */

/** How many processes of a model are drawn: the last ones. */
const DRAWN = 24;
/** Seconds that the chart shows at least. */
const SHORTEST = 60;

const HEIGHT = 210;

export class MemoryChart {
    #host = make("div", { class: "plot", role: "img" });
    #marks = make("ol");
    #scroller = make(
        "div",
        { class: "marks", tabIndex: 0, role: "group", "aria-label": "Processes that have ended" },
        this.#marks,
    );
    /** @type {any} */
    #plot = null;
    /** @type {Process[]} */
    #processes = [];
    #now = 0;
    #shape = "";

    /** @param {string} title */
    constructor(title) {
        const key = (/** @type {string} */ name, /** @type {string} */ text) =>
            make("span", { class: `key ${name}` }, text);
        this.element = make(
            "figure",
            { class: "memory" },
            make(
                "figcaption",
                {},
                make("span", {}, "Memory in MB"),
                key("worker", "worker"),
                key("template", "template"),
                key("soft", "soft limit"),
                key("hard", "hard limit"),
            ),
            this.#host,
            this.#scroller,
        );
        this.title = title;
        new ResizeObserver(() => this.#resize()).observe(this.#host);
        document.addEventListener("themechange", () => this.#renew());
    }

    /**
     * Show these processes, of one model, as they are now.
     * @param {Process[]} processes
     * @param {number} now
     */
    show(processes, now) {
        const seen = processes.filter((each) => each.samples.length);
        this.#processes = seen.sort((a, b) => a.started - b.started).slice(-DRAWN);
        this.#now = now;
        this.#list();
        const shape = this.#processes.map((each) => each.name + each.started).join();
        if (shape !== this.#shape) {
            this.#shape = shape;
            this.#renew();
        } else if (this.#plot) {
            this.#plot.setData(this.#data());
        }
    }

    /** Those that have ended, in their order in time: their number is that of their mark. */
    #ended() {
        const ended = this.#processes.filter((each) => each.ended !== null);
        return ended.sort((a, b) => Number(a.ended) - Number(b.ended));
    }

    #list() {
        const rows = this.#ended().map((each) => {
            const time = make("span", { class: "muted time" }, timeOf(Number(each.ended)));
            return make("li", {}, time, ` ${each.name} `, each.end_reason ?? "ended");
        });
        const shown = this.#marks.lastElementChild?.textContent;
        if (rows.length !== this.#marks.childElementCount || rows.at(-1)?.textContent !== shown) {
            fill(this.#marks, rows);
            this.#scroller.scrollTop = this.#scroller.scrollHeight;
        }
        this.#scroller.hidden = !rows.length;
        const living = this.#processes.filter((each) => each.ended === null);
        const text = living
            .map((each) => `${each.name} has ${Math.round(each.samples.at(-1)?.[1] ?? 0)} MB`)
            .join(", ");
        this.#host.setAttribute("aria-label", `${this.title}. ${text || "No process lives."}`);
    }

    #data() {
        // @ts-ignore -- the types of uPlot are those of the module, here it is a global
        const { uPlot } = window;
        const tables = this.#processes.map(({ samples }) => [
            samples.map(([time]) => time),
            samples.map(([, rss]) => rss),
        ]);
        return tables.length ? uPlot.join(tables) : [[]];
    }

    #renew() {
        this.#plot?.destroy();
        this.#plot = null;
        const width = this.#host.clientWidth;
        if (!width || !this.#processes.length) {
            this.#shape = width ? this.#shape : "";
            return;
        }
        const pick = (/** @type {string} */ name) => colour(this.#host, name);
        const [worker, template] = [pick("--accent"), pick("--template")];
        const axis = {
            stroke: pick("--muted"),
            font: "12px system-ui, sans-serif",
            grid: { stroke: pick("--line"), width: 1 },
            ticks: { show: false },
        };
        const times = (/** @type {any} */ _, /** @type {number[]} */ ticks) => ticks.map(timeOf);
        const options = {
            width,
            height: HEIGHT,
            legend: { show: false },
            cursor: { show: false },
            padding: [22, 28, 0, 0],
            scales: {
                x: { range: () => this.#span() },
                y: { range: () => [0, this.#highest() * 1.08] },
            },
            axes: [
                { ...axis, space: 90, size: 26, values: times },
                { ...axis, size: 48 },
            ],
            series: [
                {},
                ...this.#processes.map((each) => ({
                    stroke: each.role === "worker" ? worker : template,
                    width: each.role === "worker" ? 2 : 1.25,
                    points: { show: false },
                    spanGaps: true,
                })),
            ],
            hooks: { draw: [(/** @type {any} */ plot) => this.#draw(plot)] },
        };
        // @ts-ignore -- as above
        this.#plot = new window.uPlot(options, this.#data(), this.#host);
    }

    #resize() {
        const width = this.#host.clientWidth;
        if (!width) return;
        if (this.#plot) this.#plot.setSize({ width, height: HEIGHT });
        else this.#renew();
    }

    /** @returns {[number, number]} */
    #span() {
        const first = Math.min(...this.#processes.map((each) => each.samples[0]?.[0] ?? this.#now));
        return [Math.min(first, this.#now - SHORTEST), this.#now];
    }

    #highest() {
        let highest = 10;
        for (const each of this.#processes) {
            highest = Math.max(highest, each.soft_limit_mb ?? 0, each.hard_limit_mb ?? 0);
            for (const [, rss] of each.samples) highest = Math.max(highest, rss);
        }
        return highest;
    }

    /**
     * The limits of each worker while it lived, and the marks of those that have ended.
     * @param {any} plot
     */
    #draw(plot) {
        /** @type {CanvasRenderingContext2D} */
        const paint = plot.ctx;
        const ratio = window.devicePixelRatio || 1;
        const { left, top, width, height } = plot.bbox;
        const x = (/** @type {number} */ time) =>
            Math.max(left, Math.min(left + width, plot.valToPos(time, "x", true)));
        const pick = (/** @type {string} */ name) => colour(this.#host, name);
        const [soft, hard] = [pick("--soft"), pick("--hard")];
        const [mark, ground] = [pick("--text"), pick("--card")];
        paint.save();
        paint.lineWidth = 1.25 * ratio;
        for (const each of this.#processes) {
            if (each.role !== "worker") continue;
            const [from, to] = [x(each.started), x(each.ended ?? this.#now)];
            for (const [limit, stroke, dash] of /** @type {const} */ ([
                [each.soft_limit_mb, soft, [6, 4]],
                [each.hard_limit_mb, hard, []],
            ])) {
                if (limit === null) continue;
                const y = plot.valToPos(limit, "y", true);
                paint.setLineDash(dash.map((part) => part * ratio));
                paint.strokeStyle = stroke;
                paint.beginPath();
                paint.moveTo(from, y);
                paint.lineTo(Math.max(to, from + ratio), y);
                paint.stroke();
            }
        }
        paint.setLineDash([2 * ratio, 3 * ratio]);
        paint.font = `600 ${11 * ratio}px system-ui, sans-serif`;
        paint.textAlign = "center";
        paint.textBaseline = "middle";
        for (const [i, each] of this.#ended().entries()) {
            const at = x(Number(each.ended));
            paint.strokeStyle = mark;
            paint.beginPath();
            paint.moveTo(at, top);
            paint.lineTo(at, top + height);
            paint.stroke();
            paint.fillStyle = mark;
            paint.beginPath();
            paint.arc(at, top - 10 * ratio, 8.5 * ratio, 0, 2 * Math.PI);
            paint.fill();
            paint.fillStyle = ground;
            paint.fillText(String(i + 1), at, top - 9.5 * ratio);
        }
        paint.restore();
    }
}

/** The time of day. @param {number} seconds since the epoch */
export function timeOf(seconds) {
    return new Date(seconds * 1000).toLocaleTimeString([], { hourCycle: "h23" });
}
