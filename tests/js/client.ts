/**
 * A client as a TypeScript worker has it: fetch and FormData, nothing else. Runs under Node.
 */

export interface Health {
    status: "starting" | "ok" | "degraded";
    asr_loaded: boolean;
    tts_loaded: boolean;
    voices_loaded: number;
}

export interface Segment {
    start: number;
    end: number;
    text: string;
    emotion: string;
}

export interface Transcript {
    text: string;
    language: string;
    emotion: string;
    events: string[];
    duration: number;
    segments?: Segment[];
}

export interface Voice {
    voice_id: string;
    name: string;
    type: "builtin" | "registered" | "cached";
}

/** The service's answer to a request that it refuses; the message is its `detail`. */
export class VoiceEngineError extends Error {
    constructor(
        readonly status: number,
        readonly code: string,
        detail: string,
    ) {
        super(detail);
    }
}

const RETRIED = new Set([502, 503, 504]);

export class VoiceEngineClient {
    /** `attempts` is how often a request is sent in all; `pause` is in milliseconds. */
    constructor(
        private readonly url: string,
        private readonly apiKey?: string,
        private readonly attempts = 5,
        private readonly pause = 200,
    ) {}

    async health(): Promise<Health> {
        const response = await fetch(`${this.url}/health`);
        return (await response.json()) as Health;
    }

    async transcribe(recording: Blob, options: Record<string, string> = {}): Promise<Transcript> {
        const response = await this.send("POST", "/v1/transcribe", () =>
            form({ ...options, file: recording }),
        );
        return (await response.json()) as Transcript;
    }

    async tts(text: string, voiceId?: string, options: Record<string, string> = {}): Promise<Blob> {
        const voice: Record<string, string> = voiceId === undefined ? {} : { voice_id: voiceId };
        const response = await this.send("POST", "/v1/tts", () =>
            form({ ...options, ...voice, text }),
        );
        return response.blob();
    }

    async registerVoice(voiceId: string, audio: Blob): Promise<{ status: string; voice_id: string }> {
        const response = await this.send("POST", "/v1/voices/register", () =>
            form({ voice_id: voiceId, audio }),
        );
        return (await response.json()) as { status: string; voice_id: string };
    }

    async listVoices(): Promise<Voice[]> {
        const response = await this.send("GET", "/v1/voices");
        return ((await response.json()) as { voices: Voice[] }).voices;
    }

    async deleteVoice(voiceId: string): Promise<void> {
        await this.send("DELETE", `/v1/voices/${encodeURIComponent(voiceId)}`);
    }

    /** Sends again what may work the next time; waits for as long as the service asks. */
    private async send(method: string, path: string, body?: () => FormData): Promise<Response> {
        for (let attempt = 1; ; attempt++) {
            const response = await fetch(this.url + path, {
                method,
                body: body?.() ?? null,
                headers: this.apiKey === undefined ? {} : { "X-API-Key": this.apiKey },
            });
            if (response.ok) {
                return response;
            }
            if (!RETRIED.has(response.status) || attempt === this.attempts) {
                throw await refusal(response);
            }
            await response.arrayBuffer();
            const seconds = Number(response.headers.get("Retry-After"));
            await new Promise((resolve) =>
                setTimeout(resolve, seconds > 0 ? seconds * 1000 : this.pause),
            );
        }
    }
}

function form(fields: Record<string, string | Blob>): FormData {
    const data = new FormData();
    for (const [name, value] of Object.entries(fields)) {
        if (typeof value === "string") {
            data.append(name, value);
        } else {
            data.append(name, value, "recording");
        }
    }
    return data;
}

async function refusal(response: Response): Promise<VoiceEngineError> {
    const text = await response.text();
    try {
        const body = JSON.parse(text) as { detail: string; error?: { code?: string } };
        return new VoiceEngineError(response.status, body.error?.code ?? "", body.detail);
    } catch {
        return new VoiceEngineError(response.status, "", text); // a proxy's, in front of the service
    }
}
