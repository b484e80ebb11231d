// @ts-check
/**
 * Plays sound that may still be coming, through Web Audio: each piece is scheduled right behind the
 * one before it. Knows where it is, can pause, and can start anywhere in what has come.
 */

/** Seconds between the arrival of a piece and its sound, when nothing else is playing. */
const LEAD = 0.08;

/** @type {AudioContext | null} */
let shared = null;
/** @type {Player | null} */
let playing = null;

/** Browsers let a page have few contexts, so all players share one. */
function context() {
    shared ??= new AudioContext();
    // A browser starts it only for a click or a key.
    if (shared.state === "suspended") void shared.resume();
    return shared;
}

export class Player extends EventTarget {
    #rate;
    /** @type {Float32Array[]} */
    #pieces = [];
    #length = 0;
    #complete = false;
    #active = false;
    /** Where it stands while it does not play, in seconds. */
    #place = 0;
    /**
     * The pieces that have been handed to the browser: when they sound, and which part they are.
     * @type {{node: AudioBufferSourceNode, when: number, from: number, to: number}[]}
     */
    #scheduled = [];
    /** When the next piece may sound, on the clock of the context. */
    #free = 0;
    /** @type {number | null} */
    #frame = null;

    /** @param {number} rate samples per second */
    constructor(rate) {
        super();
        this.#rate = rate;
    }

    /** Seconds of sound that have come. */
    get duration() {
        return this.#length / this.#rate;
    }

    get active() {
        return this.#active;
    }

    /** How many pieces have been scheduled since it last began to play. */
    get pieces() {
        return this.#scheduled.length;
    }

    /** The place that is heard now, in seconds. */
    get position() {
        if (!this.#active) return this.#place;
        const now = context().currentTime;
        const heard = this.#scheduled.findLast((each) => each.when <= now);
        return heard ? Math.min(heard.to, heard.from + now - heard.when) : this.#place;
    }

    /**
     * More sound.
     * @param {Float32Array} samples
     */
    add(samples) {
        if (!samples.length) return;
        const from = this.duration;
        this.#pieces.push(samples);
        this.#length += samples.length;
        if (this.#active) this.#schedule(samples, from);
        this.#tell();
    }

    /** No more sound will come. */
    end() {
        this.#complete = true;
        this.#tell();
    }

    /** Play from a place, or from where it stands. */
    play(from = this.position) {
        if (playing !== this) playing?.pause();
        playing = this;
        this.#halt();
        this.#place = from;
        this.#active = true;
        this.#free = 0;
        let start = 0;
        for (const piece of this.#pieces) {
            const end = start + piece.length / this.#rate;
            if (end > from) {
                const skip = Math.max(0, Math.round((from - start) * this.#rate));
                this.#schedule(piece.subarray(skip), Math.max(start, from));
            }
            start = end;
        }
        this.#watch();
        this.#tell();
    }

    pause() {
        this.#place = this.position;
        this.#active = false;
        this.#halt();
        this.#tell();
    }

    /** Play, or pause; from the start when it is at its end. */
    toggle() {
        if (this.#active) this.pause();
        else this.play(this.position >= this.duration - 0.01 ? 0 : this.position);
    }

    /** @param {Float32Array} samples @param {number} from */
    #schedule(samples, from) {
        if (!samples.length) return;
        const audio = context();
        const buffer = audio.createBuffer(1, samples.length, this.#rate);
        buffer.copyToChannel(/** @type {Float32Array<ArrayBuffer>} */ (samples), 0);
        const node = audio.createBufferSource();
        node.buffer = buffer;
        node.connect(audio.destination);
        const when = Math.max(this.#free, audio.currentTime + (this.#free ? 0 : LEAD));
        node.start(when);
        this.#free = when + buffer.duration;
        this.#scheduled.push({ node, when, from, to: from + buffer.duration });
    }

    /** Silence what has been scheduled. */
    #halt() {
        for (const { node } of this.#scheduled) node.stop();
        this.#scheduled = [];
        if (this.#frame !== null) cancelAnimationFrame(this.#frame);
        this.#frame = null;
    }

    /** Tell the place with every frame, and notice the end. */
    #watch() {
        this.#frame = requestAnimationFrame(() => {
            if (this.#complete && this.position >= this.duration - 0.005) {
                this.#place = this.duration;
                this.#active = false;
                this.#halt();
            } else {
                this.#watch();
            }
            this.#tell();
        });
    }

    #tell() {
        this.dispatchEvent(new Event("change"));
    }
}
