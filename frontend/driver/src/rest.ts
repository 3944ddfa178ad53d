/** Requests: the REST door, and what `send`, `receipt`, `history` and `conversations` are there. */
import { ChatError } from './errors.js';
import type { Tokens } from './token.js';
import type { Timing } from './types.js';
import { jsonOf, refusal, toBase64 } from './wire.js';

export interface RestOptions {
  url: string;
  tokens: Tokens;
  timing: Timing;
  fetch: typeof fetch;
}

interface Asked {
  method?: string;
  headers?: Record<string, string>;
  body?: string;
  signal?: AbortSignal;
}

export class Rest {
  readonly #options: RestOptions;

  constructor(options: RestOptions) {
    this.#options = options;
  }

  /** A command of the socket, as a request. Gives what the ack has as `result`. */
  async command(name: string, payload: Record<string, unknown>, signal?: AbortSignal): Promise<unknown> {
    const { key, ...fields } = payload;
    const keyed: Record<string, string> = typeof key === 'string' ? { 'Idempotency-Key': key } : {};
    const ask = { ...(signal ? { signal } : {}) };
    switch (name) {
      case 'send': {
        const data = fields['data'] instanceof Uint8Array ? { data: toBase64(fields['data']) } : {};
        return this.#post('/v1/messages', { ...fields, ...data }, keyed, ask);
      }
      case 'receipt':
        return this.#post('/v1/receipts', fields, keyed, ask);
      case 'history':
        return this.request(`/v1/messages?${query(fields)}`, ask);
      default:
        return this.request(`/v1/${name}?${query(fields)}`, ask);
    }
  }

  #post(path: string, body: unknown, headers: Record<string, string>, ask: Asked): Promise<unknown> {
    return this.request(path, {
      ...ask,
      method: 'POST',
      headers: { ...headers, 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    });
  }

  /** Asks; with a fresh token, once, where the one at hand is refused. */
  async request(path: string, ask: Asked = {}): Promise<unknown> {
    const { tokens } = this.#options;
    const token = await tokens.get();
    try {
      return await this.#ask(path, ask, token);
    } catch (error) {
      if (!(error instanceof ChatError && error.unauthorized && (tokens.renewable || tokens.differs(token)))) throw error;
      return this.#ask(path, ask, await tokens.instead(token));
    }
  }

  async #ask(path: string, ask: Asked, token: string): Promise<unknown> {
    const { url, timing, fetch } = this.#options;
    const { signal, ...init } = ask;
    const limit = new Limit(timing.answer + carrying(init.body?.length ?? 0), signal);
    try {
      const answer = await fetch(url + path, {
        ...init,
        headers: { ...init.headers, Authorization: `Bearer ${token}` },
        cache: 'no-store',
        signal: limit.signal,
      });
      return await bodyOf(answer, () => limit.restart(timing.answer));
    } catch (error) {
      throw limit.reason(error);
    } finally {
      limit.end();
    }
  }
}

/** Milliseconds that so many bytes may take on their way out, on a line of 4 kB/s. */
export function carrying(bytes: number): number {
  return bytes / 4;
}

/** The JSON of an answer; what refuses is thrown. `heard` is told of each piece of it. */
export async function bodyOf(answer: Response, heard?: () => void): Promise<unknown> {
  const text = await textOf(answer, heard);
  const body = jsonOf(text);
  if (answer.ok && typeof body === 'object' && body !== null) return body;
  throw refusal(answer.ok ? 502 : answer.status, body, answer.headers);
}

async function textOf(answer: Response, heard?: () => void): Promise<string> {
  if (!answer.body || !heard) return answer.text();
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    heard();
    text += decoder.decode(value, { stream: true });
  }
}

/** A limit of time, and somebody else's wish to stop, as one signal. */
export class Limit {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal | undefined;
  #timer: ReturnType<typeof setTimeout>;
  #late = false;
  #stop = () => this.#controller.abort();
  #expire = () => {
    this.#late = true;
    this.#controller.abort();
  };

  constructor(milliseconds: number, outer?: AbortSignal) {
    this.#outer = outer;
    this.#timer = setTimeout(this.#expire, milliseconds);
    if (outer?.aborted) this.#stop();
    outer?.addEventListener('abort', this.#stop);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Something comes: the limit is for what comes next. */
  restart(milliseconds: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#expire, milliseconds);
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener('abort', this.#stop);
  }

  /** What an exception of `fetch` means. */
  reason(error: unknown): ChatError {
    if (error instanceof ChatError) return error;
    if (this.#outer?.aborted) return new ChatError('closed', 'closed', { cause: error });
    if (this.#late) return new ChatError('timeout', 'no answer in time', { cause: error });
    return new ChatError('network', 'no answer, or not to its end', { cause: error });
  }
}

function query(fields: Record<string, unknown>): URLSearchParams {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
}
