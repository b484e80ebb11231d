// @ts-check
/**
 * The page: its tabs, its theme, and the order in which its panels are set up.
 */

import { sentence } from "./api.js";
import { load } from "./catalog.js";
import { button, byId, fill } from "./dom.js";
import { healthPanel } from "./health.js";
import { forget, show as showKey } from "./key.js";
import { listenPanel } from "./listen.js";
import { speakPanel } from "./speak.js";
import { voicesPanel } from "./voices.js";

const TABS = ["speak", "listen", "voices", "health"];
const THEME = "voice-engine-theme";

/** Called with the name of the tab that is shown. @type {((name: string) => void)[]} */
const onTab = [];

/** The name of the tab that is shown; "" at first. */
let shown = "";

/** Show the tab that the address names. */
function showTab() {
    const named = location.hash.slice(1);
    // Links within a tab, such as the one that skips the head, change the address too.
    if (shown && !TABS.includes(named)) return;
    shown = TABS.includes(named) ? named : "speak";
    for (const name of TABS) {
        const tab = byId(`tab-${name}`);
        const selected = name === shown;
        tab.setAttribute("aria-selected", String(selected));
        tab.tabIndex = selected ? 0 : -1;
        byId(`panel-${name}`).hidden = !selected;
    }
    for (const tell of onTab) tell(shown);
}

function setUpTabs() {
    for (const [i, name] of TABS.entries()) {
        const tab = byId(`tab-${name}`);
        tab.addEventListener("click", () => {
            location.hash = name;
        });
        tab.addEventListener("keydown", (event) => {
            const last = TABS.length - 1;
            const step = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: last }[event.key];
            const to = step === undefined ? undefined : TABS.at(step % TABS.length);
            if (to === undefined) return;
            event.preventDefault();
            location.hash = to;
            byId(`tab-${to}`).focus();
        });
    }
    window.addEventListener("hashchange", showTab);
    showTab();
}

function setUpTheme() {
    const root = document.documentElement;
    const toggle = byId("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    function show() {
        const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
        toggle.textContent = dark ? "Light" : "Dark";
        toggle.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
        document.dispatchEvent(new Event("themechange"));
    }
    const kept = localStorage.getItem(THEME);
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
    toggle.addEventListener("click", () => {
        const dark = toggle.textContent === "Dark";
        root.dataset.theme = dark ? "dark" : "light";
        localStorage.setItem(THEME, root.dataset.theme);
        show();
    });
    system.addEventListener("change", show);
    show();
}

/** Ask for voices and models; say it when that fails, with a button to try again. */
async function loadLists() {
    const notice = byId("notice");
    try {
        await load();
        notice.hidden = true;
    } catch (error) {
        const again = button("Try again", () => void loadLists());
        fill(notice, sentence(error), " ", again);
        notice.hidden = false;
    }
    document.dispatchEvent(new Event("keychange"));
}

setUpTheme();
showKey();
speakPanel();
listenPanel();
voicesPanel();
onTab.push(healthPanel());
setUpTabs();
byId("forget-key").addEventListener("click", () => {
    forget();
    // Nothing that was asked with the key stays.
    location.reload();
});
void loadLists();
