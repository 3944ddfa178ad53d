/**
 * The ladder: one connection at a time, over the best rung that holds.
 *
 * Down: a rung that does not come to `ready`, that goes silent, or that breaks again and again gives way to the next one
 * below. A rung that breaks once is tried again first: servers restart. When all have failed there is no network, or no
 * server, and after a pause it begins with the rung that worked last. Up: from a lower rung the better ones are tried
 * beside it, from the top, with growing pauses; the first one that says `ready` takes over.
 *
 * Whatever changes, the new link goes on from the last cursor that was taken in, so there is no gap; what two links
 * deliver both is sorted out by position, in the pump.
 *
 * Only the server's own word ends it: a refusal with a code of ours. What a proxy says counts against the rung.
 */
import { ChatError } from './errors.js';
import { Link, type Opening } from './rungs/link.js';
import { PollLink } from './rungs/poll.js';
import { SocketLink } from './rungs/socket.js';
import { SseLink } from './rungs/sse.js';
import type { Seats } from './seats.js';
import { backoff, Pause, pauseAfter } from './time.js';
import type { Tokens } from './token.js';
import type { Status, Timing, Transport } from './types.js';
import type { Delivery, Lost, Ready } from './wire.js';

export const TRANSPORTS: readonly Transport[] = ['websocket', 'polling', 'sse', 'long-poll'];

/** Streams and socket.io's polls wait for ever: without a seat they are left out. */
const NO_SEAT = new ChatError('network', 'other tabs have the connections already');

const CLOSED = new ChatError('closed', 'closed');

/** Milliseconds from one word of the server that the token ends soon to the next one that is heeded. */
const FRESH = 10_000;

/** A rung that breaks so often, without having been stable between, is left. */
const BREAKS = 3;

export interface LadderOptions {
  url: string;
  tokens: Tokens;
  timing: Timing;
  fetch: typeof fetch;
  seats: Seats;
  transports: readonly Transport[];
  /** What worked the last time. */
  home: Transport | undefined;
  /** Before the first connection: what has to be there first. Repeated until it succeeds. */
  prepare(): Promise<void>;
  /** Where to go on. */
  cursor(): string | undefined;
  /** The cursor is none, says the server. True if there is now another one. */
  forgetCursor(): Promise<boolean>;
  ready(link: Link, ready: Ready): void;
  lost(lost: Lost): void;
  /** False if there is no room. */
  delivery(delivery: Delivery): boolean;
  /** Until there is room. */
  room(): Promise<void>;
  /** This rung has held. */
  held(transport: Transport): void;
  status(status: Status): void;
  error(error: ChatError): void;
}

export class Ladder {
  readonly #options: LadderOptions;
  readonly #pause = new Pause();
  /** For good, or until there is another token. */
  readonly #stopped = new Pause();
  readonly #links = new Set<Link>();
  #current: Link | undefined;
  #closed = false;
  #prepared = false;
  /** The last link was ended for want of room, which is nobody's fault. */
  #full = false;
  /** A link is tried in the place of the current one. */
  #renewing = false;
  /** When the current link's token was last replaced because it ended soon. */
  #freshened = -Infinity;
  /** When a link that has ended had brought something last. */
  #heardAt = 0;
  /** What was last said about an answer that is not the server's, since there was a connection. */
  #told = '';
  /** Where a new beginning is made. */
  #home: number;
  #climbs = 0;
  #climbing: ReturnType<typeof setTimeout> | undefined;
  #stable: ReturnType<typeof setTimeout> | undefined;

  constructor(options: LadderOptions) {
    this.#options = options;
    this.#home = Math.max(0, options.home ? options.transports.indexOf(options.home) : 0);
  }

  /** The link that is live. */
  get link(): Link | undefined {
    return this.#current?.over === false ? this.#current : undefined;
  }

  /** When something came last, over any link. */
  get heardAt(): number {
    return Math.max(this.#heardAt, this.#current?.beganAt === undefined ? 0 : this.#current.heardAt);
  }

  /** Requests are worth a try: there is a link, or there will be one as soon as the application has caught up. */
  get passable(): boolean {
    return this.link !== undefined || this.#full;
  }

  /** There is another token. */
  again(): void {
    this.#stopped.cut();
    this.wake();
    const { link } = this;
    if (link) void this.#freshen(link, true);
  }

  /** There is a reason to hope: the network is back, somebody looks, another token. */
  wake(): void {
    this.#pause.end();
    if (this.link?.overdue) this.renew();
    if (this.#climbing !== undefined) {
      this.#climbs = 0;
      this.#climbLater(this.#options.timing.retry);
    }
  }

  /**
   * The connection may be dead without knowing it: another network, or a page that was frozen. A new one takes over, if
   * it can. If nothing comes of it the old one is not believed any more, unless something came over it meanwhile.
   */
  renew(): void {
    const { link } = this;
    if (!link || this.#closed || this.#renewing) return;
    this.#renewing = true;
    const { heardAt } = link;
    this.#say({ state: 'connecting', transport: link.transport });
    const fresh = this.#open(link.transport, link.token);
    void Promise.race([fresh.began, fresh.ended]).then((error) => {
      this.#renewing = false;
      if (!error || link !== this.link) return;
      if (link.heardAt === heardAt) link.end(error);
      else this.#say({ state: 'connected', transport: link.transport });
    });
  }

  close(): void {
    this.#closed = true;
    this.#pause.end();
    this.#stopped.end();
    this.#rest();
  }

  async run(): Promise<void> {
    const { transports, timing, tokens } = this.#options;
    /** Attempts in a row from which nothing came that lasted. */
    let failures = 0;
    /** The rungs that failed since one worked. */
    let failed = 0;
    /** How often this rung broke, without having been stable between. */
    let breaks = 0;
    /** Tokens that were refused since one was taken. */
    let refused = 0;
    let rung = this.#home;
    while (!this.#closed) {
      const { link, error } = await this.#attempt(transports[rung]!);
      if (this.#closed) return;
      if (link) rung = transports.indexOf(link.transport);
      if (this.#full) continue;
      const began = link?.beganAt;
      const lasted = began !== undefined && Date.now() - began >= timing.stable;
      if (lasted) failures = 0;
      if (began !== undefined) failed = refused = 0;

      if (error.problem && error.unauthorized && refused === 0 && (tokens.renewable || (link && tokens.differs(link.token)))) {
        // A fresh one, once: a second refusal is about more than its age.
        const renewed = await this.#renew(link?.token);
        if (renewed) refused++;
        // One that was taken and ended, again and again, is worth no more than one that cannot be had.
        if (!renewed || (began !== undefined && failures > 0)) await this.#wait(error, failures);
        failures++;
      } else if (error.code === 'cursor_invalid' && (await this.#options.forgetCursor())) {
        // Begins anew.
      } else if (error.problem && !error.temporary) {
        this.#say({ state: 'failed', error });
        this.#options.error(error);
        await this.#stopped.wait();
        refused = 0;
      } else if (error.problem || (link === undefined && error !== NO_SEAT)) {
        // The server, or what stands before the first connection, says: later.
        if (began === undefined) rung = this.#home;
        failed = 0;
        await this.#wait(error, failures++);
      } else if (link && began !== undefined && !link.stalled) {
        breaks = lasted ? 1 : breaks + 1;
        await this.#wait(error, breaks - 1);
        if (breaks >= BREAKS && rung + 1 < transports.length) {
          rung++;
          breaks = 0;
        }
      } else if (++failed < transports.length) {
        rung = (rung + 1) % transports.length;
        breaks = 0;
      } else {
        failed = 0;
        rung = this.#home;
        await this.#wait(error, failures++);
      }
    }
  }

  /** One connection, and those that take over from it, to the end of the last one. */
  async #attempt(transport: Transport): Promise<{ link?: Link; error: ChatError }> {
    const { room, prepare, tokens } = this.#options;
    let link: Link | undefined;
    try {
      await room();
      this.#full = false;
      this.#say({ state: 'connecting', transport });
      if (!this.#prepared) await prepare();
      this.#prepared = true;
      const token = await tokens.get();
      if (this.#closed) return { error: CLOSED };
      link = await this.#enter(transport, token);
      if (!link) return { error: NO_SEAT };
      let error = await link.ended;
      while (this.#current && this.#current !== link) {
        link = this.#current;
        error = await link.ended;
      }
      return { link, error };
    } catch (cause) {
      return { error: ofCause(cause) };
    } finally {
      this.#rest();
    }
  }

  /** Opens a link, if it needs no seat, or there is one. */
  async #enter(transport: Transport, token: string): Promise<Link | undefined> {
    const waits = transport === 'polling' || transport === 'sse';
    // That of the link which it takes over from will be its own.
    const seat = waits && !this.#current?.seat ? await this.#options.seats.take() : undefined;
    if (this.#closed || (waits && !seat && !this.#current?.seat)) {
      seat?.();
      return undefined;
    }
    const link = this.#open(transport, token);
    if (link.over) seat?.();
    else link.seat = seat;
    return link;
  }

  #open(transport: Transport, token: string): Link {
    const { url, timing, fetch, seats, ready, lost, delivery, cursor } = this.#options;
    const on: Opening['on'] = {
      ready: (link, frame) => {
        this.#takeOver(link);
        if (link === this.#current) ready(link, frame);
      },
      lost: (link, frame) => {
        this.#takeOver(link);
        if (link === this.#current) lost(frame);
      },
      delivery: (link, frame) => {
        if (link !== this.#current || delivery(frame)) return;
        this.#full = true;
        link.end(new ChatError('network', 'there is no room for more'));
      },
      expiring: (link) => {
        if (performance.now() - this.#freshened < FRESH) return;
        this.#freshened = performance.now();
        void this.#freshen(link);
      },
    };
    const at: Opening = { url, token, timing, fetch, seats, on, after: cursor() };
    const link = openLink(transport, at);
    this.#links.add(link);
    link.ended.then(() => this.#links.delete(link));
    return link;
  }

  /** The first word of a link that is not the current one. */
  #takeOver(link: Link): void {
    const old = this.#current;
    if (old === link) return;
    this.#current = link;
    this.#told = '';
    if (old && !link.seat && link.transport !== 'websocket') {
      link.seat = old.seat;
      old.seat = undefined;
    }
    old?.end(new ChatError('closed', 'another connection has taken over'));
    const { transports, timing, held } = this.#options;
    const rung = transports.indexOf(link.transport);
    const worked = rung > this.#home;
    this.#say({ state: 'connected', transport: link.transport });
    clearTimeout(this.#stable);
    this.#stable = setTimeout(() => {
      this.#home = rung;
      if (rung === 0) this.#climbs = 0;
      held(link.transport);
    }, timing.stable);
    clearTimeout(this.#climbing);
    this.#climbing = undefined;
    // From one that was only reached because the server was away for a moment, soon.
    if (rung > 0) this.#climbLater(worked && this.#climbs === 0 ? timing.retry * 2 : this.#climbPause());
  }

  #climbPause(): number {
    return backoff(this.#climbs, this.#options.timing.climb, this.#options.timing.climbMax);
  }

  #climbLater(milliseconds: number): void {
    clearTimeout(this.#climbing);
    this.#climbing = setTimeout(() => {
      this.#climbing = undefined;
      void this.#climb();
    }, milliseconds);
  }

  /** Tries the better rungs beside the current one, from the top. */
  async #climb(): Promise<void> {
    const below = this.#current;
    const { transports, tokens } = this.#options;
    this.#climbs++;
    for (const transport of transports.slice(0, below ? transports.indexOf(below.transport) : 0)) {
      const token = await tokens.get().catch(() => undefined);
      if (this.#closed || this.#current !== below || below?.over) return;
      if (token === undefined) break;
      const probe = await this.#enter(transport, token);
      if (!probe) continue;
      // Either it takes over, or it ends.
      await Promise.race([probe.ended, probe.began]);
      if (this.#current !== below) return;
    }
    if (!this.#closed && !below?.over) this.#climbLater(this.#climbPause());
  }

  /** Another token for a link whose own ends soon, or is not the one that was given: told to it, or to a link in its place. */
  async #freshen(link: Link, given = false): Promise<void> {
    const { tokens } = this.#options;
    try {
      const token = await (given ? tokens.get() : tokens.instead(link.token));
      if (link !== this.#current || link.over || token === link.token) return;
      if (link.authenticate) await link.authenticate(token);
      else this.#open(link.transport, token);
    } catch (cause) {
      // Not the end yet: that comes with the token's.
      this.#options.error(ofCause(cause));
    }
  }

  async #renew(token: string | undefined): Promise<boolean> {
    const { tokens } = this.#options;
    try {
      await (token === undefined ? tokens.get() : tokens.instead(token));
      return true;
    } catch (cause) {
      this.#options.error(ofCause(cause));
      return false;
    }
  }

  async #wait(error: ChatError, failures: number): Promise<void> {
    const milliseconds = pauseAfter(error, failures, this.#options.timing);
    const what = `${error.code} ${error.status}`;
    if (error.foreign && this.#told !== what) this.#options.error(error);
    this.#told = what;
    this.#say({ state: 'waiting', retryAt: Date.now() + milliseconds, error });
    await this.#pause.wait(milliseconds, error.retryAfter !== undefined);
  }

  /** There is no connection: nothing to climb from, and nothing that holds. */
  #rest(): void {
    this.#heardAt = this.heardAt;
    for (const link of this.#links) link.end(CLOSED);
    this.#current = undefined;
    clearTimeout(this.#climbing);
    clearTimeout(this.#stable);
    this.#climbing = undefined;
  }

  #say(status: Status): void {
    if (!this.#closed) this.#options.status(status);
  }
}

function openLink(transport: Transport, at: Opening): Link {
  switch (transport) {
    case 'sse':
      return new SseLink(at);
    case 'long-poll':
      return new PollLink(at);
    default:
      return new SocketLink(transport, at);
  }
}

function ofCause(cause: unknown): ChatError {
  return cause instanceof ChatError ? cause : new ChatError('network', 'the connection failed', { cause });
}
