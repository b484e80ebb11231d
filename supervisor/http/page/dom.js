// @ts-check
/**
 * Elements: made, found and filled. Text is always set as text, never as HTML, so that nothing that
 * comes from a service or a file can become a part of the page.
 */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * A new element. `on...` properties are listeners, those that an element has as a property are set
 * as such, all others are attributes; `class` and `data-...` are attributes too.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        if (value === undefined || value === null || value === false) continue;
        if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
        else if (name in element && !name.includes("-")) /** @type {any} */ (element)[name] = value;
        else element.setAttribute(name, value === true ? "" : String(value));
    }
    append(element, children);
    return element;
}

/**
 * A small button.
 * @param {Child | Child[]} content
 * @param {() => void} onclick
 * @param {Record<string, any>} [properties]
 */
export function button(content, onclick, properties = {}) {
    return make("button", { type: "button", class: "plain small", onclick, ...properties }, content);
}

/**
 * Replace what is in `parent`.
 * @param {Element} parent
 * @param {...(Child | Child[])} children
 */
export function fill(parent, ...children) {
    parent.replaceChildren();
    append(parent, children);
}

/**
 * The element with this id, which is in index.html.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
    const element = document.getElementById(id);
    if (!element) throw new Error(`there is no #${id}`);
    return /** @type {T} */ (element);
}

/**
 * An icon of the page's own small set, for the eye only.
 * @param {keyof typeof ICONS} name
 */
export function icon(name) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", ICONS[name]);
    svg.append(path);
    return svg;
}

/**
 * A colour of the style sheet as the theme has it now, for canvases.
 * @param {Element} near an element that has it
 * @param {string} property a custom property, such as `--accent`
 */
export function colour(near, property) {
    const probe = make("span", { hidden: true });
    near.append(probe);
    probe.style.color = `var(${property})`;
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
}

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
    play: "M8 5.5v13l10.5-6.5z",
    pause: "M7 5.5h3.5v13H7zM13.5 5.5H17v13h-3.5z",
    stop: "M7 7h10v10H7z",
    microphone:
        "M12 3.5a2.8 2.8 0 0 0-2.8 2.8v5.2a2.8 2.8 0 0 0 5.6 0V6.3A2.8 2.8 0 0 0 12 3.5z" +
        "M6 11a6 6 0 0 0 5.2 5.95V20.5h1.6v-3.55A6 6 0 0 0 18 11h-1.6a4.4 4.4 0 0 1-8.8 0z",
    bin:
        "M9.5 4h5l.8 1.5H19V7H5V5.5h3.7z" +
        "M6.5 8.5h11l-.8 11a1.5 1.5 0 0 1-1.5 1.4H8.8a1.5 1.5 0 0 1-1.5-1.4z",
};

/** @param {Element} parent @param {(Child | Child[])[]} children */
function append(parent, children) {
    for (const child of children.flat()) {
        if (child === null || child === undefined || child === false) continue;
        parent.append(typeof child === "number" ? String(child) : child);
    }
}
