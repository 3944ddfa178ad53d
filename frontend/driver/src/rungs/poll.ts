/**
 * The long poll: passes wherever a request passes. The first one does not wait, to see at once whether it works. Where
 * a wait is cut off or swallowed, by a proxy with a short patience, the next one is half as long; and whoever has no seat
 * (see `seats`) does not wait at all, but asks when there is a hint, and now and then. An answer that has nothing and did
 * not wait for it, as a cache gives, or `more` of nothing, is no reason to ask again at once.
 */
import { ChatError } from '../errors.js';
import { bodyOf, Limit } from '../rest.js';
import { backoff } from '../time.js';
import type { EventPage, Lost } from '../wire.js';
import { Link, type Opening } from './link.js';

/** A wait that was halved so often is given up: polls that do not wait, with pauses between. */
const HALVINGS = 4;

export class PollLink extends Link {
  readonly #stop = new AbortController();
  /** Whether the last answer brought anything. */
  #brought = false;

  constructor(at: Opening) {
    super('long-poll', at);
    this.#follow().catch((error: ChatError) => this.end(error));
  }

  protected override shut(): void {
    this.#stop.abort();
  }

  async #follow(): Promise<void> {
    const { seats, timing } = this.at;
    let wait = 0;
    let longest = timing.poll;
    const shortest = longest / 2 ** HALVINGS;
    for (let idle = 0; ; ) {
      let more = false;
      const asked = performance.now();
      this.#brought = false;
      try {
        more = await this.#poll(wait);
      } catch (error) {
        // The server's word, or nothing at all even without waiting: that is the ladder's business.
        if (this.over || wait === 0 || !(error instanceof ChatError && error.status === 0)) throw error;
        longest = longest / 2 < shortest ? 0 : longest / 2;
        more = true;
      }
      if (this.#brought || (!more && performance.now() - asked >= wait / 2)) idle = 0;
      else await seats.listen(backoff(idle++, timing.retry, timing.retryMax), this.#stop.signal);
      if (!this.seat) await this.#sit();
      if (this.over) return;
      wait = more || !this.seat ? 0 : longest;
      if (wait === 0 && !more) await seats.listen(timing.poll / (this.seat ? 8 : 5), this.#stop.signal);
      if (this.over) return;
    }
  }

  async #sit(): Promise<void> {
    const seat = await this.at.seats.take();
    // Meanwhile it may have ended, or another link's seat may have become its own.
    if (this.over || this.seat) seat?.();
    else this.seat = seat;
  }

  /** Whether there is more at once. */
  async #poll(wait: number): Promise<boolean> {
    const { url, token, fetch, timing } = this.at;
    this.listen((this.beganAt === undefined ? timing.ready : wait + timing.answer) + timing.silence);
    const query = new URLSearchParams({ wait: String(Math.ceil(wait / 1000)), limit: '200' });
    if (this.chain !== undefined) query.set('after', this.chain);
    const heard = () => {
      this.heard();
      limit.restart(timing.answer);
    };
    const limit = new Limit(this.beganAt === undefined ? timing.ready : wait + timing.answer, this.#stop.signal);
    try {
      const headers = { Accept: 'application/json', Authorization: `Bearer ${token}` };
      const answer = await fetch(`${url}/v1/events?${query}`, { headers, cache: 'no-store', signal: limit.signal });
      return this.#take((await bodyOf(answer, heard)) as EventPage);
    } catch (error) {
      const reason = limit.reason(error);
      if (reason.code !== 'cursor_reset') throw reason;
      this.lost(reason.problem as unknown as Lost);
      return true;
    } finally {
      limit.end();
    }
  }

  #take({ events, cursor, more }: EventPage): boolean {
    if (!Array.isArray(events) || typeof cursor !== 'string') {
      throw new ChatError('answer_invalid', 'an answer that is no page of events', { status: 502 });
    }
    // What "now" and "the beginning" are called only the server knows.
    const named = this.chain !== undefined && this.chain !== '' && this.chain !== '0';
    if (this.beganAt === undefined) this.ready({ cursor: named ? this.chain! : (events[0]?.prev ?? cursor) });
    this.heard();
    this.#brought = events.length > 0;
    for (const event of events) {
      if (!this.follow(event)) return true;
    }
    if (this.over) return false;
    this.follow({ prev: this.chain!, cursor });
    return more;
  }
}
