// @ts-check
/**
 * Sound as numbers: 16 bits from a stream, WAV files, recordings decoded by the browser. All sound
 * on this page is mono.
 */

/** Joins the bytes of a PCM stream into whole samples: a piece may end in the middle of one. */
export class PcmReader {
    #left = new Uint8Array(0);

    /**
     * The samples that are whole now, from -1 to 1.
     * @param {Uint8Array} bytes
     */
    read(bytes) {
        const all = new Uint8Array(this.#left.length + bytes.length);
        all.set(this.#left);
        all.set(bytes, this.#left.length);
        const whole = all.length - (all.length % 2);
        this.#left = all.slice(whole);
        const view = new DataView(all.buffer, 0, whole);
        const samples = new Float32Array(whole / 2);
        for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
        return samples;
    }
}

/**
 * A WAV file of PCM with 16 bits.
 * @param {BlobPart[]} pcm
 * @param {number} rate
 */
export function wav(pcm, rate) {
    const size = new Blob(pcm).size;
    const head = new DataView(new ArrayBuffer(44));
    const text = (/** @type {number} */ at, /** @type {string} */ word) =>
        [...word].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
    text(0, "RIFF");
    head.setUint32(4, 36 + size, true);
    text(8, "WAVEfmt ");
    head.setUint32(16, 16, true);
    head.setUint16(20, 1, true);
    head.setUint16(22, 1, true);
    head.setUint32(24, rate, true);
    head.setUint32(28, 2 * rate, true);
    head.setUint16(32, 2, true);
    head.setUint16(34, 16, true);
    text(36, "data");
    head.setUint32(40, size, true);
    return new Blob([head.buffer, ...pcm], { type: "audio/wav" });
}

/** Sample rate at which recordings are decoded: enough to listen, and less memory than their own. */
const DECODED_RATE = 24000;

/**
 * The samples of a recording; null if this browser cannot decode it. The service may know it still.
 * @param {Blob} file
 * @returns {Promise<{samples: Float32Array, rate: number} | null>}
 */
export async function decoded(file) {
    const context = new OfflineAudioContext(1, 1, DECODED_RATE);
    try {
        const buffer = await context.decodeAudioData(await file.arrayBuffer());
        const { numberOfChannels: channels, sampleRate: rate } = buffer;
        const samples = new Float32Array(buffer.length);
        for (let channel = 0; channel < channels; channel++) {
            const one = buffer.getChannelData(channel);
            one.forEach((sample, i) => (samples[i] = (samples[i] ?? 0) + sample / channels));
        }
        return { samples, rate };
    } catch {
        return null;
    }
}

/**
 * Seconds as people read them: 0:07, 12:30.
 * @param {number} seconds
 */
export function clock(seconds) {
    const whole = Math.floor(seconds);
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/**
 * Let the browser save a file.
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
