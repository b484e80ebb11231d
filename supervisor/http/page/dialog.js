// @ts-check
/**
 * The dialog in which the user confirms something, and says why.
 */

import { byId, fill, make } from "./dom.js";

/**
 * @typedef {object} Question
 * @property {string} title what will be done, and to what
 * @property {string} text what happens then
 * @property {string} verb the word on the button
 * @property {boolean} [danger] whether something is lost
 * @property {boolean} [why] whether to ask for a reason, which goes into the log
 * @property {{label: string, value: number, min: number, max: number}} [number] a number to ask for
 */

/**
 * Ask; null if the user cancels.
 * @param {Question} question
 * @returns {Promise<{why: string, number: number} | null>}
 */
export function ask(question) {
    const dialog = /** @type {HTMLDialogElement} */ (byId("ask-dialog"));
    const form = /** @type {HTMLFormElement} */ (byId("ask-form"));
    const go = byId("ask-go");
    byId("ask-title").textContent = question.title;
    byId("ask-text").textContent = question.text;
    go.textContent = question.verb;
    go.classList.toggle("danger", Boolean(question.danger));
    const why = make("input", { id: "ask-why", maxLength: 200, autocomplete: "off" });
    const { number } = question;
    const count = make("input", { id: "ask-number", type: "number", ...(number ?? {}) });
    fill(
        byId("ask-fields"),
        number && [make("label", { class: "label", for: "ask-number" }, number.label), count],
        question.why && [make("label", { class: "label", for: "ask-why" }, "Reason, for the log"), why],
    );
    dialog.showModal();
    byId("ask-cancel").onclick = () => dialog.close();
    return new Promise((resolve) => {
        /** @type {{why: string, number: number} | null} */
        let answer = null;
        form.onsubmit = (event) => {
            event.preventDefault();
            if (number && !count.reportValidity()) return;
            answer = { why: why.value.trim(), number: count.valueAsNumber };
            dialog.close();
        };
        dialog.onclose = () => resolve(answer);
    });
}
