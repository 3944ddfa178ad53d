/**
 * Between the links and the application: one thing after the other, each once.
 *
 * What comes in follows a chain, but two links may overlap, when the ladder changes the rung, and a cursor out of the
 * store may be older than what the application has seen. So an event at or below the last position is known, and in a
 * conversation so is a message at or below the last `seq`. A `seq` that leaves one out would mean that the chain lied;
 * history then tells what is missing, before the message is given.
 *
 * The place moves past a thing once its handlers are done. So a crash may give something again, and never skips it.
 */
import { ChatError } from './errors.js';
import type { Place } from './place.js';
import type { Message } from './types.js';
import { readMessage, type Lost, type WireEvent } from './wire.js';

export type Item =
  | { kind: 'event'; event: WireEvent; cursor: string }
  /** Nothing to be given, but a later cursor: a heartbeat, `ready`. */
  | { kind: 'step'; cursor: string }
  | { kind: 'lost'; lost: Pick<Lost, 'reason' | 'oldest'>; cursor?: string | undefined }
  /** Something of one's own, in its turn. */
  | { kind: 'task'; run: () => Promise<void>; cursor?: undefined };

export interface PumpTargets {
  message(message: Message, event: WireEvent): unknown;
  /** Anything else that is in the log. */
  other(event: WireEvent): unknown;
  lost(lost: Pick<Lost, 'reason' | 'oldest'>): unknown;
  /** The messages of a conversation between two, exclusive, ascending; asked until it is answered. */
  between(after: Message, before: Message): Promise<Message[]>;
  reached(place: Place): void;
  error(error: ChatError): void;
}

/** Deliveries that may wait for the application; the link ends at the limit, and goes on when they are dealt with. */
const ROOM = 1000;

/** Conversations whose last `seq` is kept, the most recent ones. */
const CONVERSATIONS = 10_000;

export class Pump {
  #queue: Item[] = [];
  #running: Promise<void> | undefined;
  #freed: (() => void) | undefined;
  #closed = false;
  #position = 0;
  /** The last message of each conversation. */
  readonly #last = new Map<string, Pick<Message, '_id' | 'seq'>>();
  /** After the last delivery that was taken in: where a link goes on. */
  cursor: string | undefined;

  constructor(private readonly to: PumpTargets) {}

  begin(place: Partial<Place>): void {
    this.cursor = place.cursor;
    this.#position = place.position ?? 0;
  }

  /** False if there is no room: then it was not taken. */
  push(item: Item): boolean {
    const bounded = item.kind === 'event' || item.kind === 'step';
    if (this.#closed || (bounded && this.#queue.length >= ROOM)) return false;
    if (item.cursor !== undefined) this.cursor = item.cursor;
    this.#queue.push(item);
    this.#running ??= this.#run();
    return true;
  }

  /** Until half of the room is free. */
  async room(): Promise<void> {
    if (this.#queue.length >= ROOM / 2) await new Promise<void>((resolve) => (this.#freed = resolve));
  }

  /** What is known from elsewhere: a message up to here does not come as an event any more. */
  knows(message: Pick<Message, '_id' | 'seq' | 'conversation_id'>): void {
    const last = this.#last.get(message.conversation_id);
    if (!last || last.seq < message.seq) this.#remember(message);
  }

  /** The `seq` of a message, if it is the last one of its conversation that is known. */
  seqOf(conversation_id: string, _id: number): number | undefined {
    const last = this.#last.get(conversation_id);
    return last?._id === _id ? last.seq : undefined;
  }

  close(): void {
    this.#closed = true;
    this.#queue = [];
    this.#freed?.();
  }

  async #run(): Promise<void> {
    // Not in the turn of whoever pushed.
    await undefined;
    for (let at = 0; ; ) {
      if (this.#closed || at >= this.#queue.length) break;
      await this.#take(this.#queue[at]!);
      // Taken off in portions: shifting a long array costs its length each time.
      if (++at >= 64 || at >= this.#queue.length) {
        this.#queue.splice(0, at);
        at = 0;
        if (this.#queue.length < ROOM / 2) this.#freed?.();
      }
    }
    this.#running = undefined;
  }

  async #take(item: Item): Promise<void> {
    if (item.kind === 'event' && item.event.position > this.#position) {
      await this.#give(item.event);
      if (this.#closed) return;
      this.#position = item.event.position;
    } else if (item.kind === 'event' && item.event.position < this.#position) {
      // Given before, and so is what lies between.
      return;
    } else if (item.kind === 'lost') {
      this.#position = 0;
      this.#last.clear();
      await this.to.lost(item.lost);
    } else if (item.kind === 'task') await item.run();
    if (!this.#closed && item.cursor !== undefined) this.to.reached({ cursor: item.cursor, position: this.#position });
  }

  async #give(event: WireEvent): Promise<void> {
    if (event.type !== 'message.sent' || !event.message) return void (await this.to.other(event));
    const message = readMessage(event.message);
    const last = this.#last.get(message.conversation_id);
    if (last && message.seq <= last.seq) return;
    if (last && message.seq > last.seq + 1) await this.#heal({ ...message, ...last }, message, event);
    if (this.#closed) return;
    this.#remember(message);
    await this.to.message(message, event);
  }

  async #heal(after: Message, before: Message, event: WireEvent): Promise<void> {
    let missing = before.seq - after.seq - 1;
    let seq = after.seq;
    for (const message of await this.to.between(after, before)) {
      if (this.#closed || message.seq <= seq || message.seq >= before.seq) continue;
      seq = message.seq;
      missing--;
      this.#remember(message);
      const { key: _, ...envelope } = event;
      const position = message._id;
      await this.to.message(message, { ...envelope, position, actor_id: message.sender_id, message } as WireEvent);
    }
    if (this.#closed || missing === 0) return;
    const where = `${before.conversation_id} between ${after.seq} and ${before.seq}`;
    this.to.error(new ChatError('seq_hole', `${missing} messages are nowhere: in ${where}`));
  }

  #remember({ conversation_id, seq, _id }: Pick<Message, '_id' | 'seq' | 'conversation_id'>): void {
    this.#last.delete(conversation_id);
    this.#last.set(conversation_id, { seq, _id });
    if (this.#last.size > CONVERSATIONS) this.#last.delete(this.#last.keys().next().value!);
  }
}
