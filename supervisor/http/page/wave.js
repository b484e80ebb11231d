// @ts-check
/**
 * Draws sound as bars that grow while it comes. What has been heard has the accent's colour. A click
 * or the arrow keys choose a place.
 */

import { colour } from "./dom.js";
import { clock } from "./sound.js";

/** Peaks are kept of each of these seconds. */
const STEP = 0.02;
const BAR = 3;
const GAP = 2;
/** The whole width stands for at least so many seconds, so that a stream grows from the left. */
const SHORTEST = 4;
/** Bars are drawn in proportion to the loudest one, but silence stays small. */
const QUIET = 0.1;

export class Wave {
    /** @type {number[]} */
    #peaks = [];
    #rest = 0;
    #counted = 0;
    #seconds = 0;
    #place = 0;
    #loudest = QUIET;
    #complete = false;
    #waiting = false;

    /**
     * @param {HTMLCanvasElement} canvas
     * @param {(seconds: number) => void} choose called with the place that the user chooses
     */
    constructor(canvas, choose) {
        this.canvas = canvas;
        canvas.tabIndex = 0;
        canvas.setAttribute("role", "slider");
        canvas.setAttribute("aria-valuemin", "0");
        canvas.addEventListener("click", (event) => {
            const part = event.offsetX / canvas.clientWidth;
            choose(Math.min(part * this.#span(), this.#seconds));
        });
        canvas.addEventListener("keydown", (event) => {
            const step = { ArrowRight: 2, ArrowLeft: -2, PageUp: 10, PageDown: -10 }[event.key];
            const place = event.key === "Home" ? 0 : step ? this.#place + step : null;
            if (place === null) return;
            event.preventDefault();
            choose(Math.max(0, Math.min(place, this.#seconds)));
        });
        new ResizeObserver(() => this.#soon()).observe(canvas);
        document.addEventListener("themechange", () => this.#soon());
        this.clear();
    }

    clear() {
        this.#peaks = [];
        this.#rest = this.#counted = this.#seconds = this.#place = 0;
        this.#loudest = QUIET;
        this.#complete = false;
        this.#soon();
    }

    /**
     * More sound.
     * @param {Float32Array} samples
     * @param {number} rate
     */
    add(samples, rate) {
        const size = Math.round(rate * STEP);
        for (const sample of samples) {
            this.#rest = Math.max(this.#rest, Math.abs(sample));
            if (++this.#counted < size) continue;
            this.#peaks.push(this.#rest);
            this.#loudest = Math.max(this.#loudest, this.#rest);
            this.#rest = this.#counted = 0;
        }
        this.#seconds += samples.length / rate;
        this.#soon();
    }

    /** No more sound will come: it takes the whole width. */
    end() {
        this.#complete = true;
        this.#soon();
    }

    /**
     * What has been heard.
     * @param {number} seconds
     */
    heard(seconds) {
        this.#place = seconds;
        this.#soon();
    }

    /** Seconds that the whole width stands for. */
    #span() {
        if (this.#complete) return Math.max(this.#seconds, STEP);
        let span = SHORTEST;
        while (span < this.#seconds) span *= 1.5;
        return span;
    }

    /** Draw with the next frame, once. */
    #soon() {
        if (this.#waiting) return;
        this.#waiting = true;
        requestAnimationFrame(() => {
            this.#waiting = false;
            this.#draw();
        });
    }

    #draw() {
        const { canvas } = this;
        canvas.setAttribute("aria-valuemax", this.#seconds.toFixed(1));
        canvas.setAttribute("aria-valuenow", this.#place.toFixed(1));
        canvas.setAttribute("aria-valuetext", `${clock(this.#place)} of ${clock(this.#seconds)}`);
        const ratio = window.devicePixelRatio || 1;
        const [width, height] = [canvas.clientWidth, canvas.clientHeight];
        if (!width || !height) return;
        const size = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
        if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
        const paint = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
        paint.setTransform(ratio, 0, 0, ratio, 0, 0);
        paint.clearRect(0, 0, width, height);
        const pick = (/** @type {string} */ name) => colour(document.body, name);
        const [heard, ahead, rest] = [pick("--accent"), pick("--wave"), pick("--line")];
        const bars = Math.floor((width + GAP) / (BAR + GAP));
        const each = this.#span() / bars;
        const filled = this.#seconds / each;
        for (let bar = 0; bar < bars; bar++) {
            const x = bar * (BAR + GAP);
            if (bar >= filled) {
                paint.fillStyle = rest;
                paint.fillRect(x, height / 2 - 1, BAR, 2);
                continue;
            }
            const from = Math.floor((bar * each) / STEP);
            const peak = Math.max(0, ...this.#peaks.slice(from, Math.ceil(((bar + 1) * each) / STEP)));
            const tall = Math.max(3, Math.sqrt(Math.min(peak / this.#loudest, 1)) * (height - 4));
            paint.fillStyle = bar * each < this.#place ? heard : ahead;
            paint.beginPath();
            paint.roundRect(x, (height - tall) / 2, BAR, tall, BAR / 2);
            paint.fill();
        }
    }
}
