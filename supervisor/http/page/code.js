// @ts-check
/**
 * A call of the page as code: curl, Python and TypeScript, ready to run. The key is never in it, only
 * the name of the variable that has it.
 */

import { address } from "./api.js";
import { button, fill, make } from "./dom.js";
import { key } from "./key.js";

/**
 * @typedef {object} Call
 * @property {string} path
 * @property {Record<string, string | number | boolean>} fields
 * @property {{field: string, name: string} | null} file with a file the body is a form, else JSON
 * @property {string | null} output the file for the response; null: it is a stream of events
 */

const VARIABLE = "VOICE_ENGINE_API_KEY";
const LANGUAGES = /** @type {const} */ (["curl", "Python", "TypeScript"]);

/** The code of the call that the user is about to make, in the language of choice. */
export class CodeSample {
    /** @type {typeof LANGUAGES[number]} */
    #language = "curl";
    #code = make("code");
    #copy = button("Copy", () => void this.#toClipboard());
    #call;

    /**
     * @param {HTMLElement} host
     * @param {() => Call} call
     * @param {...HTMLElement} extras what else stands above the code
     */
    constructor(host, call, ...extras) {
        this.#call = call;
        const choices = LANGUAGES.map((language) => {
            const properties = { class: "choice", "aria-pressed": String(language === this.#language) };
            const choice = button(language, () => choose(choice, language), properties);
            return choice;
        });
        const choose = (/** @type {HTMLElement} */ chosen, /** @type {typeof LANGUAGES[number]} */ language) => {
            this.#language = language;
            for (const each of choices) each.setAttribute("aria-pressed", String(each === chosen));
            this.show();
        };
        const label = { role: "group", "aria-label": "Language of the code" };
        const group = make("div", { class: "choices", ...label }, choices);
        host.append(
            make("div", { class: "code-head" }, group, extras, this.#copy),
            make("pre", { tabIndex: 0, role: "region", "aria-label": "Code" }, this.#code),
        );
    }

    /** Show the call as it is now. */
    show() {
        const call = this.#call();
        const text = { curl, Python: python, TypeScript: typescript }[this.#language](call);
        fill(this.#code, text);
        this.#copy.textContent = "Copy";
    }

    async #toClipboard() {
        try {
            await navigator.clipboard.writeText(this.#code.textContent ?? "");
            this.#copy.textContent = "Copied";
        } catch {
            getSelection()?.selectAllChildren(this.#code);
            this.#copy.textContent = "Press Ctrl+C";
        }
    }
}

/** @param {Call} call */
function curl(call) {
    const shell = (/** @type {string} */ text) => `'${text.replaceAll("'", "'\\''")}'`;
    const lines = [call.output ? "curl -f" : "curl -fN"];
    if (key()) lines.push(`-H "Authorization: Bearer $${VARIABLE}"`);
    if (call.file) {
        // --form-string: a value that begins with @ or < is a value still.
        for (const [name, value] of Object.entries(call.fields)) {
            lines.push(`--form-string ${shell(`${name}=${value}`)}`);
        }
        lines.push(`-F ${shell(`${call.file.field}=@${call.file.name}`)}`);
    } else {
        lines.push("-H 'Content-Type: application/json'");
        lines.push(`-d ${shell(JSON.stringify(call.fields))}`);
    }
    lines.push(address(call.path) + (call.output ? ` -o ${call.output}` : ""));
    return lines.join(" \\\n    ");
}

/** @param {Call} call */
function python(call) {
    const { file, output } = call;
    const value = (/** @type {unknown} */ each) =>
        each === true ? "True" : each === false ? "False" : JSON.stringify(each);
    const entries = (/** @type {boolean} */ asText) =>
        Object.entries(call.fields)
            .map(([name, each]) => `        ${JSON.stringify(name)}: ${value(asText ? String(each) : each)},\n`)
            .join("");
    const text = JSON.stringify;
    const imports = [!output && "import json", key() && "import os"].filter(Boolean).join("\n");
    return [
        imports && `${imports}\n\n`,
        "import httpx\n\n",
        `with httpx.stream(\n    "POST",\n    ${text(address(call.path))},\n`,
        key() && `    headers={"Authorization": "Bearer " + os.environ["${VARIABLE}"]},\n`,
        file
            ? `    data={\n${entries(true)}    },\n` +
              `    files={"${file.field}": open(${text(file.name)}, "rb")},\n`
            : `    json={\n${entries(false)}    },\n`,
        "    timeout=300,\n) as answer:\n    answer.raise_for_status()\n",
        output
            ? `    with open("${output}", "wb") as sound:\n` +
              "        for piece in answer.iter_bytes():\n            sound.write(piece)\n"
            : '    for line in answer.iter_lines():\n        if line.startswith("data: "):\n' +
              "            print(json.loads(line[6:]))\n",
    ]
        .filter(Boolean)
        .join("");
}

/** @param {Call} call */
function typescript(call) {
    const { file, output } = call;
    const files = [file && "readFile", output && "writeFile"].filter(Boolean).join(", ");
    const headers = [
        key() && `Authorization: \`Bearer \${process.env.${VARIABLE}}\``,
        !file && '"Content-Type": "application/json"',
    ].filter(Boolean);
    const lines = [`import { ${files} } from "node:fs/promises";`, ""];
    if (file) {
        lines.push("const form = new FormData();");
        for (const [name, each] of Object.entries(call.fields)) {
            lines.push(`form.append(${JSON.stringify(name)}, ${JSON.stringify(String(each))});`);
        }
        const name = JSON.stringify(file.name);
        lines.push(
            `const recording = new Blob([new Uint8Array(await readFile(${name}))]);`,
            `form.append("${file.field}", recording, ${name});`,
        );
    }
    const url = JSON.stringify(address(call.path));
    lines.push(`const answer = await fetch(${url}, {`, '    method: "POST",');
    if (headers.length) lines.push(`    headers: { ${headers.join(", ")} },`);
    const body = file ? "form" : `JSON.stringify(${JSON.stringify(call.fields)})`;
    lines.push(`    body: ${body},`, "});");
    lines.push("if (!answer.ok) throw new Error((await answer.json()).detail);");
    if (output) {
        lines.push(`await writeFile("${output}", Buffer.from(await answer.arrayBuffer()));`);
    } else {
        lines.push(
            "const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();",
            'let rest = "";',
            "for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {",
            '    const lines = (rest + piece.value).split("\\n");',
            '    rest = lines.pop() ?? "";',
            "    for (const line of lines) {",
            '        if (line.startsWith("data: ")) console.log(JSON.parse(line.slice(6)));',
            "    }",
            "}",
        );
    }
    return `${lines.join("\n")}\n`;
}
