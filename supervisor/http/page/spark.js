// @ts-check
/**
 * A small line without axes, beside a number: how it has been of late.
 */

import { colour, make } from "./dom.js";

/** Seconds that it shows. */
const SPAN = 300;
const [WIDTH, HEIGHT] = [96, 22];

export class Spark {
    element = make("canvas", { class: "spark", "aria-hidden": "true" });

    /**
     * @param {[number, number | null][]} points times and values
     * @param {number} now
     */
    show(points, now) {
        const canvas = this.element;
        const ratio = window.devicePixelRatio || 1;
        canvas.width = WIDTH * ratio;
        canvas.height = HEIGHT * ratio;
        const paint = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
        paint.scale(ratio, ratio);
        const seen = points.filter(([time, value]) => value !== null && time > now - SPAN);
        let highest = 0;
        for (const [, value] of seen) highest = Math.max(highest, Number(value));
        paint.strokeStyle = colour(document.body, highest ? "--accent" : "--line");
        paint.lineWidth = 1.5;
        paint.lineJoin = "round";
        paint.beginPath();
        for (const [time, value] of seen) {
            const share = highest ? Number(value) / highest : 0;
            paint.lineTo(WIDTH * (1 - (now - time) / SPAN), HEIGHT - 2 - share * (HEIGHT - 4));
        }
        paint.stroke();
    }
}
