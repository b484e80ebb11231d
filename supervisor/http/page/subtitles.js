// @ts-check
/**
 * A transcript as files: SubRip, WebVTT, text.
 */

/** @typedef {{start: number, end: number, text: string}} Segment */

/** @param {Segment[]} segments */
export function srt(segments) {
    const cues = segments.map((each, i) => `${i + 1}\n${span(each, ",")}\n${line(each)}\n\n`);
    return cues.join("");
}

/** @param {Segment[]} segments */
export function vtt(segments) {
    const escaped = (/** @type {string} */ text) =>
        text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    const cues = segments.map((each) => `${span(each, ".")}\n${escaped(line(each))}\n\n`);
    return `WEBVTT\n\n${cues.join("")}`;
}

/** @param {Segment} segment @param {string} point */
function span(segment, point) {
    return `${time(segment.start, point)} --> ${time(segment.end, point)}`;
}

/** @param {number} seconds @param {string} point */
function time(seconds, point) {
    const whole = new Date(Math.round(seconds * 1000)).toISOString();
    return whole.slice(11, 23).replace(".", point);
}

/** An empty line would end the cue. @param {Segment} segment */
function line(segment) {
    return segment.text.split(/\s+/).filter(Boolean).join(" ");
}
