/**
 * The connections that a browser has for one host, over HTTP/1.1 six, for all tabs together. A request that waits holds
 * one: with a stream in each tab the seventh tab would not even load, and nobody could send.
 *
 * So whoever waits for something to happen, over any rung but a websocket, takes a seat, of which there are few. A seat
 * is a Web Lock, so that it is free again whatever becomes of its tab. Who has none asks without waiting: when a tab
 * with a connection says that something has happened, and now and then. The word is only a hint: what has happened
 * everybody asks the server, and checks in its own chain.
 *
 * It is the browser that is short of connections, whoever its users are and whatever keeps their messages. Programs are
 * not, and have locks all the same, as Node 24 has: there everybody has a seat.
 */
import { within } from './time.js';

const SEATS = 3;

/** Milliseconds: whether a lock is free is known at once, or never. */
const LOCKS_LIMIT = 3000;

/** Gives a seat back. */
export type Seat = () => void;

export class Seats {
  readonly #locks = inBrowser() ? (navigator.locks as LockManager | undefined) : undefined;
  readonly #channel: BroadcastChannel | undefined;
  readonly #listeners = new Set<() => void>();

  constructor(private readonly scope: string) {
    if (!this.#locks || typeof BroadcastChannel === 'undefined') return;
    this.#channel = new BroadcastChannel(`${scope}/happened`);
    this.#channel.addEventListener('message', () => {
      for (const listener of [...this.#listeners]) listener();
    });
  }

  /** A seat, if there is a free one. Where seats cannot be counted everybody gets one. */
  async take(): Promise<Seat | undefined> {
    if (!this.#channel) return () => {};
    for (let number = 0; number < SEATS; number++) {
      const seat = await this.#take(`${this.scope}/seat/${number}`);
      if (seat) return seat;
    }
    return undefined;
  }

  #take(name: string): Promise<Seat | undefined> {
    const seat = new Promise<Seat | undefined>((resolve) => {
      const granted = (lock: Lock | null) => {
        if (!lock) return resolve(undefined);
        return new Promise<void>((release) => resolve(release));
      };
      // Where they may not be used (site data is blocked), they cannot be counted either.
      this.#locks!.request(name, { ifAvailable: true }, granted).catch(() => resolve(() => {}));
    });
    return within(LOCKS_LIMIT, seat, () => new Error('late')).catch(() => {
      // It may still come.
      void seat.then((late) => late?.());
      return () => {};
    });
  }

  /** Says that something has happened. */
  hint(): void {
    this.#channel?.postMessage(0);
  }

  /** Until somebody says so, the time is up, or the signal comes. */
  listen(milliseconds: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#listeners.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.#listeners.add(done);
      signal.addEventListener('abort', done);
      if (signal.aborted) done();
    });
  }

  close(): void {
    this.#channel?.close();
  }
}

/** A page or a worker: what has an address of its own. */
function inBrowser(): boolean {
  return typeof location === 'object' && typeof navigator === 'object';
}
