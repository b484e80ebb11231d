// @ts-check
/**
 * A small line without axes, beside a number: how it has been of late.
 */

import { colour, make } from "./dom.js";

/** Seconds that it shows, at least and at most. */
const [SHORTEST, LONGEST] = [20, 300];
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
        paint.fillStyle = colour(document.body, "--line");
        paint.fillRect(0, HEIGHT - 1, WIDTH, 1);
        const seen = points.filter(([time, value]) => value !== null && time > now - LONGEST);
        let highest = 0;
        for (const [, value] of seen) highest = Math.max(highest, Number(value));
        if (!highest) return;
        const span = Math.max(SHORTEST, now - Number(seen[0]?.[0]));
        paint.strokeStyle = colour(document.body, "--accent");
        paint.lineWidth = 1.5;
        paint.lineJoin = "round";
        paint.beginPath();
        for (const [time, value] of seen) {
            const share = Number(value) / highest;
            paint.lineTo(WIDTH * (1 - (now - time) / span), HEIGHT - 1 - share * (HEIGHT - 3));
        }
        paint.stroke();
    }
}
