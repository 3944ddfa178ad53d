/**
 * Server-Sent Events, read from `fetch`: an `EventSource` can send no header, so that the token would stand in the
 * address, and it says nothing about why it was refused. Commands go by REST.
 */
import { ChatError } from '../errors.js';
import { bodyOf } from '../rest.js';
import { closing } from '../wire.js';
import type { Delivery, Lost, Ready } from '../wire.js';
import { Link, type Opening } from './link.js';

export class SseLink extends Link {
  #stream = new AbortController();

  constructor(at: Opening) {
    super('sse', at);
    this.#read().then(
      (error) => this.end(error),
      (cause) =>
        this.end(cause instanceof ChatError ? cause : new ChatError('network', 'the stream broke', { cause })),
    );
  }

  protected override shut(): void {
    this.#stream.abort();
  }

  async #read(): Promise<ChatError> {
    for (;;) {
      const { url, token, fetch } = this.at;
      const headers: Record<string, string> = { Accept: 'text/event-stream', Authorization: `Bearer ${token}` };
      const after = this.chain === undefined ? '' : `?after=${encodeURIComponent(this.chain)}`;
      const stream = this.#stream;
      const answer = await fetch(`${url}/v1/events${after}`, { headers, cache: 'no-store', signal: stream.signal });
      const type = answer.headers.get('Content-Type') ?? '';
      if (!answer.ok || !type.startsWith('text/event-stream')) await bodyOf(answer);
      if (!answer.body || !type.startsWith('text/event-stream')) {
        throw new ChatError('answer_invalid', 'an answer that is no stream', { status: 502 });
      }
      for await (const frame of frames(answer.body)) {
        if (this.over) break;
        if (frame.event === 'closing') return closing(JSON.parse(frame.data));
        if (!this.#take(frame)) break;
      }
      if (this.over || stream === this.#stream) return new ChatError('network', 'the stream ended');
    }
  }

  /** False where a step is missing: the stream is asked for again from the last one. */
  #take({ event, data }: Frame): boolean {
    const body: unknown = JSON.parse(data);
    switch (event) {
      case 'ready':
        this.ready(body as Ready);
        return true;
      case 'reset':
        this.lost(body as Lost);
        return true;
      case 'expiring':
        this.at.on.expiring(this);
        return true;
      case '':
      case 'heartbeat':
        if (this.follow(body as Delivery)) return true;
        this.#stream.abort();
        this.#stream = new AbortController();
        return false;
      default:
        return true;
    }
  }
}

interface Frame {
  event: string;
  data: string;
}

/** The frames of a stream that have data. */
async function* frames(body: ReadableStream<Uint8Array>): AsyncGenerator<Frame> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  let event = '';
  let data: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
      rest = lines.pop()!;
      for (const ended of lines) {
        const line = ended.endsWith('\r') ? ended.slice(0, -1) : ended;
        const [, name = '', text = ''] = /^([^:]*):? ?(.*)$/s.exec(line)!;
        if (line === '') {
          if (data.length > 0) yield { event, data: data.join('\n') };
          event = '';
          data = [];
        } else if (name === 'event') event = text;
        else if (name === 'data') data.push(text);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
