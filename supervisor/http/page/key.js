// @ts-check
/**
 * The API key of this tab. It is kept in the session storage, so it is gone when the tab is closed,
 * and it goes nowhere but into the header of requests to this service.
 */

import { byId } from "./dom.js";

const NAME = "voice-engine-key";

/** The key, or "" without one. */
export function key() {
    return sessionStorage.getItem(NAME) ?? "";
}

/**
 * The header with the key, if there is one.
 * @returns {Record<string, string>}
 */
export function keyHeader(given = key()) {
    return given ? { Authorization: `Bearer ${given}` } : {};
}

/** Forget the key. */
export function forget() {
    sessionStorage.removeItem(NAME);
    show();
}

/** Show the button that forgets the key, if there is one. */
export function show() {
    byId("forget-key").hidden = !key();
}

/** @type {Promise<boolean> | null} */
let asking = null;

/**
 * Ask for a key until `accepts` takes one. One dialog serves all requests that wait for it.
 * @param {string} why what the user reads above the field
 * @param {(given: string) => Promise<string>} accepts "" if the service takes this key, else why not
 * @returns {Promise<boolean>} whether there is a key now that the service takes
 */
export function askForKey(why, accepts) {
    asking ??= ask(why, accepts).finally(() => {
        asking = null;
    });
    return asking;
}

/** @param {string} why @param {(given: string) => Promise<string>} accepts */
function ask(why, accepts) {
    const dialog = /** @type {HTMLDialogElement} */ (byId("key-dialog"));
    const form = /** @type {HTMLFormElement} */ (byId("key-form"));
    const field = /** @type {HTMLInputElement} */ (byId("key-field"));
    const problem = byId("key-problem");
    byId("key-why").textContent = why;
    problem.textContent = "";
    field.value = "";
    dialog.showModal();
    byId("key-cancel").onclick = () => dialog.close();
    return new Promise((resolve) => {
        let accepted = false;
        form.onsubmit = async (event) => {
            event.preventDefault();
            const given = field.value.trim();
            problem.textContent = given ? await accepts(given) : "Enter a key.";
            if (problem.textContent) {
                field.setAttribute("aria-invalid", "true");
                field.focus();
                field.select();
                return;
            }
            sessionStorage.setItem(NAME, given);
            show();
            accepted = true;
            dialog.close();
        };
        dialog.onclose = () => {
            field.value = "";
            field.removeAttribute("aria-invalid");
            resolve(accepted);
        };
    });
}
