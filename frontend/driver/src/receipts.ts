/**
 * What was received and read, on its way to the server. Receipts are cumulative, so what waits for a conversation is one
 * receipt of each kind, the furthest, however many were asked for.
 */
import { ChatError } from './errors.js';
import { mayPass } from './outgoing.js';
import { Pause } from './time.js';
import type { Marks, MessageRef, Receipt, Timing } from './types.js';

type Kind = Receipt['type'];

interface Waiting {
  type: Kind;
  upTo: number;
  resolve: ((marks: Marks) => void)[];
  reject: ((error: ChatError) => void)[];
}

export interface ReceiptOptions {
  timing: Timing;
  passable(): boolean;
  command(name: string, payload: Record<string, unknown>): Promise<unknown>;
}

export class Receipts {
  readonly #options: ReceiptOptions;
  readonly #waiting = new Map<string, Waiting>();
  readonly #wake = new Pause();
  #working = false;
  #closed = false;

  constructor(options: ReceiptOptions) {
    this.#options = options;
  }

  say(type: Kind, { conversation_id, _id }: MessageRef): Promise<Marks> {
    if (this.#closed) return Promise.reject(new ChatError('closed', 'closed'));
    const name = `${type} ${conversation_id}`;
    const said = new Promise<Marks>((resolve, reject) => {
      const waiting = this.#waiting.get(name) ?? { type, upTo: 0, resolve: [], reject: [] };
      waiting.upTo = Math.max(waiting.upTo, _id);
      waiting.resolve.push(resolve);
      waiting.reject.push(reject);
      this.#waiting.set(name, waiting);
    });
    // Whoever does not wait for it need not hear of it.
    said.catch(() => {});
    void this.#work();
    return said;
  }

  wake(): void {
    this.#wake.cut();
    void this.#work();
  }

  close(): void {
    this.#closed = true;
    this.#wake.end();
    for (const { reject } of this.#waiting.values()) {
      for (const tell of reject) tell(new ChatError('closed', 'closed'));
    }
    this.#waiting.clear();
  }

  async #work(): Promise<void> {
    if (this.#working) return;
    this.#working = true;
    // Not in the turn of whoever says it: what is said in one turn goes out as one.
    await undefined;
    for (let failures = 0; !this.#closed && this.#options.passable(); ) {
      const next = this.#waiting.entries().next().value;
      if (!next) break;
      const [name, waiting] = next;
      this.#waiting.delete(name);
      try {
        const marks = await this.#options.command('receipt', { type: waiting.type, up_to: waiting.upTo });
        failures = 0;
        for (const tell of waiting.resolve) tell(marks as Marks);
      } catch (cause) {
        const error = cause instanceof ChatError ? cause : new ChatError('network', 'it was not said', { cause });
        if (!mayPass(error) || this.#closed) {
          for (const tell of waiting.reject) tell(error);
          continue;
        }
        this.#putBack(name, waiting);
        await this.#wake.after(error, failures++, this.#options.timing);
      }
    }
    this.#working = false;
  }

  #putBack(name: string, waiting: Waiting): void {
    const newer = this.#waiting.get(name);
    if (newer) {
      waiting.upTo = Math.max(waiting.upTo, newer.upTo);
      waiting.resolve.push(...newer.resolve);
      waiting.reject.push(...newer.reject);
    }
    this.#waiting.set(name, waiting);
  }
}
