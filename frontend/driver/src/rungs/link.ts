/**
 * One connection over one rung, from the moment that it is opened to the one thing that ends it.
 *
 * A link checks its own chain: what it passes on follows, step by step, from the cursor that it was opened with, or
 * from one that the server named in a `reset`. Where a step is missing the link asks again from where it was; where it
 * cannot, it ends. So whoever has the last cursor of any link can go on from it with any other.
 *
 * Nothing here waits for ever: `ready` has its limit, silence has its own, and both end the link. That also holds for
 * what hangs inside a transport: a poll of socket.io that is lost leaves its client "connecting" without end.
 */
import { ChatError } from '../errors.js';
import type { Seat, Seats } from '../seats.js';
import type { Timing, Transport } from '../types.js';
import { told } from '../time.js';
import type { Delivery, Lost, Ready } from '../wire.js';

export interface Opening {
  url: string;
  token: string;
  /** None: from now. */
  after: string | undefined;
  timing: Timing;
  fetch: typeof fetch;
  seats: Seats;
  on: LinkEvents;
}

export interface LinkEvents {
  /** Complete from this cursor. Comes first; again whenever the link begins anew by itself. */
  ready(link: Link, ready: Ready): void;
  /** Not complete: goes on from this cursor. */
  lost(link: Link, lost: Lost): void;
  delivery(link: Link, delivery: Delivery): void;
  /** The token ends soon, and the link with it. */
  expiring(link: Link): void;
}

/** Seconds: the heartbeat of a server that names none, and what is believed of one that does. */
const HEARTBEAT = { usual: 15, least: 1, most: 300 };

/** Milliseconds that a timer is late by after the machine slept, and not before. */
const SLEPT = 5000;

/** How often a link asks again from where it was, before it has taken a step. */
const BREAKS = 3;

export abstract class Link {
  /** Resolved with its first word. */
  readonly began: Promise<void>;
  /** Resolved with what ended it. */
  readonly ended: Promise<ChatError>;
  /** When it said `ready` or `reset` first, by the clock of this machine. */
  beganAt: number | undefined;
  /** Given back at the end, unless another link has taken it over. */
  seat: Seat | undefined;
  /** It ended because nothing came any more, though the transport said that all was well. */
  stalled = false;

  protected chain: string | undefined;
  #begin!: () => void;
  #end!: (error: ChatError) => void;
  #over = false;
  #limit = 0;
  #heard = 0;
  #breaks = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly transport: Transport,
    protected readonly at: Opening,
  ) {
    this.chain = at.after;
    this.began = new Promise((resolve) => (this.#begin = resolve));
    this.ended = new Promise((resolve) => (this.#end = resolve));
    this.listen(at.timing.ready);
  }

  get token(): string {
    return this.at.token;
  }

  get over(): boolean {
    return this.#over;
  }

  /** A command, where this rung carries commands: gives what the ack has as `result`. */
  command?(name: string, payload: Record<string, unknown>): Promise<unknown>;

  /** Another token, without a break, where this rung can do that. */
  authenticate?(token: string): Promise<void>;

  /** What the rung has to let go of. */
  protected abstract shut(): void;

  end(error: ChatError): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#end(error);
    this.shut();
    this.seat?.();
  }

  /** When something came last, by the clock of this machine. */
  get heardAt(): number {
    return this.#heard;
  }

  /** Something should have come long ago: perhaps the machine slept. */
  get overdue(): boolean {
    return Date.now() - this.#heard > this.#limit;
  }

  /** From now on something comes within this time, again and again, or the link ends. */
  protected listen(milliseconds: number): void {
    this.#limit = milliseconds;
    this.heard();
  }

  protected heard(): void {
    this.#heard = Date.now();
    clearTimeout(this.#timer);
    if (!this.#over) this.#timer = setTimeout(() => this.#silent(), this.#limit);
  }

  #silent(): void {
    // Whatever passed while the machine slept, or the page was frozen, is not the transport's fault.
    this.stalled = Date.now() - this.#heard < this.#limit + SLEPT;
    this.end(new ChatError('timeout', `nothing came over ${this.transport} for ${this.#limit} ms`));
  }

  protected ready(ready: Ready): void {
    if (this.#over) return;
    this.#began(ready);
    this.at.on.ready(this, ready);
  }

  protected lost(lost: Lost): void {
    if (this.#over) return;
    this.#began(lost);
    this.at.on.lost(this, lost);
  }

  #began({ cursor, heartbeat_s }: { cursor: string; heartbeat_s?: number }): void {
    this.chain = cursor;
    this.beganAt ??= Date.now();
    this.#begin();
    const { usual, least, most } = HEARTBEAT;
    this.listen((told(heartbeat_s, least, most) ?? usual) * 1000 + this.at.timing.silence);
  }

  /** One step. False if it is not the next one; a chain that stays broken ends the link. */
  protected follow(delivery: Delivery): boolean {
    if (this.#over) return true;
    if (this.beganAt === undefined || delivery.prev !== this.chain) {
      if (++this.#breaks > BREAKS) this.end(new ChatError('network', 'the chain stays broken'));
      return this.#over;
    }
    this.#breaks = 0;
    this.chain = delivery.cursor;
    this.heard();
    this.at.on.delivery(this, delivery);
    return true;
  }
}
