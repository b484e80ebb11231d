// @ts-check
/**
 * Server-sent events from a fetched response: unlike an EventSource, a fetch can send a key.
 */

/**
 * The events of a response as they come.
 * @param {Response} response
 * @returns {AsyncGenerator<{id: string | null, data: any}>} `data` is read as JSON
 */
export async function* events(response) {
    if (!response.body) return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
        for (;;) {
            const { done, value } = await reader.read();
            if (done) return;
            const blocks = (rest + value).split("\n\n");
            rest = blocks.pop() ?? "";
            for (const block of blocks) {
                const event = parsed(block);
                if (event) yield event;
            }
        }
    } finally {
        await reader.cancel().catch(() => {});
    }
}

/** @param {string} block */
function parsed(block) {
    let id = null;
    const data = [];
    for (const line of block.split("\n")) {
        if (line.startsWith("id: ")) id = line.slice(4);
        if (line.startsWith("data: ")) data.push(line.slice(6));
    }
    return data.length ? { id, data: JSON.parse(data.join("\n")) } : null;
}
