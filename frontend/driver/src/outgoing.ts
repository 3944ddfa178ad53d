/**
 * The queue of what is on its way.
 *
 * A message goes out under one key until it is answered, in the order of its writing, one at a time: two in flight
 * would change places when the first one is told to come again. What is refused for good fails alone, and so does what
 * was answered with a failure too often, and the queue goes on; what passes by itself is waited for. The message's own
 * event counts as an answer too, whichever comes first.
 *
 * In the store each message has its key, under the user's scope: another user of the same browser never sends it.
 */
import { ChatError } from './errors.js';
import type { Tabs } from './tabs.js';
import { randomKey } from './tabs.js';
import { Pause, within } from './time.js';
import { mayPass, Tries } from './tries.js';
import type { Draft, Message, Outgoing, OutgoingState, Store, Timing } from './types.js';
import { fromBase64, readMessage, toBase64 } from './wire.js';

export interface QueueOptions {
  timing: Timing;
  /** Whether it is worth a try. */
  passable(): boolean;
  /** When a connection last brought anything, by the clock of this machine. */
  heardAt(): number;
  /** Over the link, where it carries commands and there is nothing against it; else by REST. */
  command(name: string, payload: Record<string, unknown>, byRest: boolean): Promise<unknown>;
  stateOf(message: Message): OutgoingState;
  changed(entry: Outgoing, discarded: boolean): void;
  storeFailed(cause: unknown): void;
}

/** Where it is kept, once it is known for whom. */
export interface Home {
  scope: string;
  store: Store;
  tabs: Tabs;
}

/** As the store has it. */
interface Stored {
  key: string;
  to: string;
  text?: string;
  data?: string;
  contentType?: string;
  createdAt: number;
  order: number;
  tab: string;
  error?: { code: string; message: string; status: number };
}

/** Messages that may wait; more are refused at once. */
const ROOM = 10_000;

/** Messages that are sent, whose marks are still of interest. */
const SENT = 1000;

/** Milliseconds that the bytes of a Blob may take to come; those of a file on a drive that is gone never do. */
const READING = 60_000;

class Entry implements Outgoing {
  state: OutgoingState = 'pending';
  message?: Message;
  error?: ChatError;
  sent!: Promise<Message>;
  /** It may be with the server already. */
  tried = false;
  tries = new Tries();
  /** Written to the store, or refused by it. */
  stored: Promise<void> = Promise.resolve();
  /** The store has refused it. */
  unkept = false;
  resolve!: (message: Message) => void;
  reject!: (error: ChatError) => void;

  constructor(
    readonly key: string,
    readonly to: string,
    readonly createdAt: number,
    public order: number,
    readonly text: string | undefined,
    public data: Uint8Array | undefined,
    readonly contentType: string | undefined,
  ) {
    this.await();
  }

  await(): void {
    this.sent = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    // Nobody has to wait for it: that it failed is said by the event too.
    this.sent.catch(() => {});
  }
}

export class OutgoingQueue {
  readonly #options: QueueOptions;
  readonly #home: Promise<Home>;
  #settle!: (home: Home) => void;
  /** Pending and failed ones, in their order. */
  readonly #entries = new Map<string, Entry>();
  /** Those that are sent, the oldest first. */
  readonly #sent = new Map<string, Entry>();
  readonly #wake = new Pause();
  /** Until the store is asked once more. */
  #later: ReturnType<typeof setTimeout> | undefined;
  #order = 0;
  #opened = false;
  #working = false;
  #closed = false;

  constructor(options: QueueOptions) {
    this.#options = options;
    this.#home = new Promise((resolve) => (this.#settle = resolve));
  }

  list(): Outgoing[] {
    return [...this.#entries.values()].sort((one, other) => one.order - other.order);
  }

  add(draft: Draft): Outgoing {
    const { to, text, data, contentType, key = randomKey() } = draft;
    const known = this.#entries.get(key);
    if (known) return known;
    const now = Date.now();
    const type = contentType ?? (isBlob(data) && data.type ? data.type : undefined);
    const bytes = isBlob(data) ? undefined : bytesOf(data);
    const entry = new Entry(key, to, now, this.#next(now), text, bytes, type);
    if (this.#entries.size >= ROOM) {
      this.#refuse(entry, new ChatError('queue_full', 'too much waits already'));
      return entry;
    }
    this.#entries.set(entry.key, entry);
    if ((text === undefined) === (data === undefined)) {
      this.#fail(entry, new ChatError('draft_invalid', 'a message has either text or data', { status: 400 }));
      return entry;
    }
    if (this.#closed) {
      this.#fail(entry, new ChatError('closed', 'closed'));
      return entry;
    }
    entry.stored = (async () => {
      try {
        const late = () => new Error('its bytes do not come');
        if (isBlob(data)) entry.data = new Uint8Array(await within(READING, data.arrayBuffer(), late));
      } catch (cause) {
        this.#fail(entry, new ChatError('draft_invalid', 'the data cannot be read', { status: 400, cause }));
        return;
      }
      await this.#write(entry);
    })();
    this.#options.changed(entry, false);
    void this.#work();
    return entry;
  }

  /** What an earlier life has left, and other tabs that are gone. Before this nothing is written, or sent. */
  async open(home: Home): Promise<void> {
    this.#settle(home);
    this.#opened = true;
    const { store, tabs } = home;
    for (const key of await store.keys(prefix(home))) {
      const stored = parse(await store.get(key));
      if (stored && stored.tab !== tabs.id && !this.#entries.has(stored.key)) await tabs.settle(stored.tab);
    }
  }

  /** Takes over what a tab has left. */
  async adopt(tab: string): Promise<void> {
    const { changed } = this.#options;
    const home = await this.#home;
    const left: Stored[] = [];
    for (const key of await home.store.keys(prefix(home))) {
      const stored = parse(await home.store.get(key));
      if (stored?.tab === tab && !this.#entries.has(stored.key)) left.push(stored);
    }
    left.sort((one, other) => one.order - other.order);
    for (const stored of left) {
      const { key, to, createdAt, order, text, data, contentType, error } = stored;
      const bytes = data === undefined ? undefined : fromBase64(data);
      const entry = new Entry(key, to, createdAt, order, text, bytes, contentType);
      entry.tried = true;
      this.#order = Math.max(this.#order, order);
      this.#entries.set(key, entry);
      entry.stored = this.#write(entry);
      if (error) this.#fail(entry, new ChatError(error.code, error.message, { status: error.status }));
      else changed(entry, false);
      await entry.stored;
    }
    void this.#work();
  }

  retry(key: string): void {
    const entry = this.#entries.get(key);
    if (entry?.state !== 'failed') return;
    entry.state = 'pending';
    entry.tries = new Tries();
    delete entry.error;
    entry.order = this.#next(Date.now());
    entry.await();
    entry.stored = this.#write(entry);
    this.#options.changed(entry, false);
    void this.#work();
  }

  discard(key: string): boolean {
    const entry = this.#entries.get(key);
    if (!entry || (entry.state === 'pending' && entry.tried)) return false;
    this.#entries.delete(key);
    void this.#forget(entry);
    entry.reject(new ChatError('discarded', 'it was discarded'));
    this.#options.changed(entry, true);
    return true;
  }

  /** A message of one's own is in the log. */
  seen(key: string, message: Message): void {
    const entry = this.#entries.get(key);
    if (entry) this.#succeed(entry, message);
  }

  /** Somebody has received, or read, up to a `seq`. */
  marked(conversation_id: string, user_id: string, received_seq: number, read_seq: number): void {
    for (const entry of [...this.#sent.values()]) {
      const { message } = entry;
      if (message?.conversation_id !== conversation_id || message.receiver_id !== user_id) continue;
      const state = message.seq <= read_seq ? 'read' : message.seq <= received_seq ? 'delivered' : entry.state;
      if (state === entry.state) continue;
      entry.state = state;
      if (state === 'read') this.#sent.delete(entry.key);
      this.#options.changed(entry, false);
    }
  }

  /** The store takes something again: what it has refused is written once more. */
  keep(): void {
    for (const entry of this.#entries.values()) {
      if (entry.unkept) entry.stored = entry.stored.then(() => this.#write(entry));
    }
  }

  /** There is a connection; or, `firm`, a reason to hope that is stronger than what the server asked for. */
  wake(firm = false): void {
    if (firm) this.#wake.end();
    else this.#wake.cut();
    void this.#work();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#later);
    this.#wake.end();
    // Nobody who is not known has anything to keep.
    const stored = Promise.all([...this.#entries.values()].map((entry) => entry.stored));
    // Neither a file that does not come nor a store that does not answer keeps it open.
    if (this.#opened) await within(this.#options.timing.store, stored, () => new Error('not in time')).catch(() => {});
    for (const entry of this.#entries.values()) entry.reject(new ChatError('closed', 'closed before it was sent'));
  }

  async #work(): Promise<void> {
    if (this.#working) return;
    this.#working = true;
    try {
      for (;;) {
        const entry = this.#first();
        if (!entry || this.#closed || !this.#options.passable()) return;
        try {
          // What broke the link the first time may be the message itself; a request is refused in so many words.
          await this.#deliver(entry, entry.tries.failures > 0);
        } catch (cause) {
          const error = cause instanceof ChatError ? cause : new ChatError('network', 'it was not sent', { cause });
          if (entry.state !== 'pending') continue;
          if (entry.tries.spent(error, this.#options.heardAt()) || !mayPass(error)) {
            this.#fail(entry, error);
            continue;
          }
          await this.#wake.after(error, entry.tries.failures - 1, this.#options.timing);
        }
      }
    } finally {
      this.#working = false;
    }
  }

  #first(): Entry | undefined {
    let first: Entry | undefined;
    for (const entry of this.#entries.values()) {
      if (entry.state === 'pending' && (!first || entry.order < first.order)) first = entry;
    }
    return first;
  }

  async #deliver(entry: Entry, byRest: boolean): Promise<void> {
    await entry.stored;
    if (entry.state !== 'pending' || this.#entries.get(entry.key) !== entry || this.#closed) return;
    const { key, to, text, data, contentType } = entry;
    const content = text === undefined ? { data } : { text };
    const type = contentType === undefined ? {} : { content_type: contentType };
    entry.tried = true;
    const answer = await this.#options.command('send', { receiver_id: to, ...content, ...type, key }, byRest);
    this.#succeed(entry, readMessage(answer as Message));
  }

  #succeed(entry: Entry, message: Message): void {
    // Its event may have been faster than its answer, and another may have its key by now.
    if (this.#entries.get(entry.key) !== entry) return;
    this.#entries.delete(entry.key);
    entry.state = this.#options.stateOf(message);
    entry.message = message;
    delete entry.error;
    void this.#forget(entry);
    if (entry.state !== 'read') this.#sent.set(entry.key, entry);
    if (this.#sent.size > SENT) this.#sent.delete(this.#sent.keys().next().value!);
    entry.resolve(message);
    this.#options.changed(entry, false);
  }

  #fail(entry: Entry, error: ChatError): void {
    this.#refuse(entry, error);
    entry.stored = entry.stored.then(() => this.#write(entry));
  }

  #refuse(entry: Entry, error: ChatError): void {
    entry.state = 'failed';
    entry.error = error;
    entry.reject(error);
    this.#options.changed(entry, false);
  }

  #next(now: number): number {
    return (this.#order = Math.max(this.#order + 1, now * 1000));
  }

  async #write(entry: Entry): Promise<void> {
    const home = await this.#home;
    const { key, to, text, data, contentType, createdAt, order, error } = entry;
    if (this.#entries.get(key) !== entry) return;
    const stored: Stored = { key, to, createdAt, order, tab: home.tabs.id };
    if (text !== undefined) stored.text = text;
    if (data !== undefined) stored.data = toBase64(data);
    if (contentType !== undefined) stored.contentType = contentType;
    if (error) stored.error = { code: error.code, message: error.message, status: error.status };
    entry.unkept = !(await this.#kept(home.store.set(prefix(home) + key, JSON.stringify(stored))));
    if (entry.unkept) this.#askLater();
  }

  /** One of those that the store has refused is written once more: while one is offline, nothing else may be for long. */
  #askLater(): void {
    if (this.#closed) return;
    this.#later ??= setTimeout(() => {
      this.#later = undefined;
      const entry = [...this.#entries.values()].find((entry) => entry.unkept);
      if (entry) entry.stored = entry.stored.then(() => this.#write(entry));
    }, this.#options.timing.store);
  }

  async #forget(entry: Entry): Promise<void> {
    await entry.stored;
    const home = await this.#home;
    if (this.#entries.has(entry.key)) return;
    await this.#kept(home.store.delete(prefix(home) + entry.key));
  }

  /** A store that fails takes nothing with it but what it would have been needed for. */
  async #kept(done: Promise<void>): Promise<boolean> {
    try {
      await done;
      return true;
    } catch (cause) {
      this.#options.storeFailed(cause);
      return false;
    }
  }
}

function prefix({ scope }: Home): string {
  return `${scope}/outgoing/`;
}

function parse(value: string | undefined): Stored | undefined {
  try {
    const stored = JSON.parse(value ?? '') as Stored;
    return typeof stored.key === 'string' && typeof stored.to === 'string' ? stored : undefined;
  } catch {
    return undefined;
  }
}

function isBlob(data: Draft['data']): data is Blob {
  return typeof Blob !== 'undefined' && data instanceof Blob;
}

function bytesOf(data: Exclude<Draft['data'], Blob>): Uint8Array | undefined {
  return data instanceof ArrayBuffer ? new Uint8Array(data) : data;
}
