/**
 * What was received and read, on its way to the server. Receipts are cumulative, so what waits for a conversation is one
 * receipt of each kind, the furthest, however many were asked for. A kind that is switched off waits for nobody.
 */
import { ChatError } from './errors.js';
import { Pause } from './time.js';
import { mayPass, Tries } from './tries.js';
import type { Marks, MessageRef, Receipt, Timing } from './types.js';

type Kind = Receipt['type'];

interface Waiting {
  type: Kind;
  to: MessageRef;
  tries: Tries;
  resolve: ((marks: Marks) => void)[];
  reject: ((error: ChatError) => void)[];
}

export interface ReceiptOptions {
  timing: Timing;
  passable(): boolean;
  /** When a connection last brought anything, by the clock of this machine. */
  heardAt(): number;
  command(name: string, payload: Record<string, unknown>): Promise<unknown>;
  /** What is kept here instead, where this kind is not told to anybody. */
  quiet(type: Kind, upTo: MessageRef): Marks | undefined;
  error(error: ChatError): void;
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

  say(type: Kind, upTo: MessageRef): Promise<Marks> {
    if (this.#closed) return Promise.reject(new ChatError('closed', 'closed'));
    const kept = this.#options.quiet(type, upTo);
    if (kept) return Promise.resolve(kept);
    const name = `${type} ${upTo.conversation_id}`;
    const said = new Promise<Marks>((resolve, reject) => {
      const waiting = this.#waiting.get(name) ?? { type, to: upTo, tries: new Tries(), resolve: [], reject: [] };
      waiting.to = further(waiting.to, upTo);
      waiting.resolve.push(resolve);
      waiting.reject.push(reject);
      this.#waiting.set(name, waiting);
    });
    // Whoever does not wait for it need not hear of it.
    said.catch(() => {});
    void this.#work();
    return said;
  }

  /** There is a connection; or, `firm`, a reason to hope that is stronger than what the server asked for. */
  wake(firm = false): void {
    if (firm) this.#wake.end();
    else this.#wake.cut();
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
    while (!this.#closed && this.#options.passable()) {
      const next = this.#waiting.entries().next().value;
      if (!next) break;
      const [name, waiting] = next;
      this.#waiting.delete(name);
      try {
        const { type, to } = waiting;
        // It may have been switched off since it was said.
        const marks = this.#options.quiet(type, to) ?? (await this.#options.command('receipt', { type, up_to: to._id }));
        for (const tell of waiting.resolve) tell(marks as Marks);
      } catch (cause) {
        const error = cause instanceof ChatError ? cause : new ChatError('network', 'it was not said', { cause });
        const spent = waiting.tries.spent(error, this.#options.heardAt());
        if (spent || !mayPass(error) || this.#closed) {
          for (const tell of waiting.reject) tell(error);
          if (spent) this.#options.error(error);
          continue;
        }
        this.#putBack(name, waiting);
        await this.#wake.after(error, waiting.tries.failures - 1, this.#options.timing);
      }
    }
    this.#working = false;
  }

  #putBack(name: string, waiting: Waiting): void {
    const newer = this.#waiting.get(name);
    if (newer) {
      waiting.to = further(waiting.to, newer.to);
      waiting.resolve.push(...newer.resolve);
      waiting.reject.push(...newer.reject);
    }
    this.#waiting.set(name, waiting);
  }
}

function further(one: MessageRef, other: MessageRef): MessageRef {
  return other._id > one._id ? other : one;
}
