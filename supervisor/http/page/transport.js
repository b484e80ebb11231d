// @ts-check
/**
 * The row with the play button, the wave and the time, for sound that may still be coming.
 */

import { byId, fill, icon } from "./dom.js";
import { Player } from "./player.js";
import { clock } from "./sound.js";
import { Wave } from "./wave.js";

export class Transport extends EventTarget {
    /** @type {Player | null} */
    player = null;
    #rate = 0;
    #button;
    #time;
    #wave;

    /** @param {string} prefix of the ids of its elements */
    constructor(prefix) {
        super();
        this.#button = byId(`${prefix}-play`);
        this.#time = byId(`${prefix}-time`);
        const canvas = /** @type {HTMLCanvasElement} */ (byId(`${prefix}-wave`));
        this.#wave = new Wave(canvas, (place) => this.playFrom(place));
        this.#button.addEventListener("click", () => this.player?.toggle());
        this.#show();
    }

    /**
     * Take new sound instead of the old.
     * @param {number} rate
     */
    begin(rate) {
        this.stop();
        this.#rate = rate;
        this.player = new Player(rate);
        this.player.addEventListener("change", () => this.#show());
        this.#wave.clear();
        this.#show();
    }

    /** @param {Float32Array} samples */
    add(samples) {
        this.#wave.add(samples, this.#rate);
        this.player?.add(samples);
    }

    /** No more sound will come. */
    end() {
        this.#wave.end();
        this.player?.end();
    }

    stop() {
        if (this.player?.active) this.player.pause();
    }

    /** @param {number} place in seconds */
    playFrom(place) {
        this.player?.play(place);
    }

    #show() {
        const { player } = this;
        const active = Boolean(player?.active);
        const place = player?.position ?? 0;
        if (this.#button.dataset.active !== String(active)) {
            this.#button.dataset.active = String(active);
            this.#button.setAttribute("aria-label", active ? "Pause" : "Play");
            fill(this.#button, icon(active ? "pause" : "play"));
        }
        this.#wave.heard(place);
        this.#time.textContent = `${clock(place)} / ${clock(player?.duration ?? 0)}`;
        this.#button.parentElement?.setAttribute("data-pieces", String(player?.pieces ?? 0));
        this.dispatchEvent(new CustomEvent("place", { detail: active ? place : null }));
    }
}
