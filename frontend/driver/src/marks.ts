/** How far everybody has received and read, as far as was seen, and what is kept of that for oneself alone. */
import type { Conversation, Marks, Message, MessageRef, Store } from './types.js';

/** Conversations whose marks are kept, those that moved last. */
const CONVERSATIONS = 10_000;

export class MarkBook {
  /** By conversation, by user: received, read. */
  readonly #marks = new Map<string, Map<string, [number, number]>>();

  /** Marks never go back. */
  move(conversation_id: string, user_id: string, received: number, read: number): void {
    const users = this.#marks.get(conversation_id) ?? new Map<string, [number, number]>();
    const [received_before, read_before] = users.get(user_id) ?? [0, 0];
    users.set(user_id, [Math.max(received_before, received, read), Math.max(read_before, read)]);
    this.#marks.delete(conversation_id);
    this.#marks.set(conversation_id, users);
    if (this.#marks.size > CONVERSATIONS) this.#marks.delete(this.#marks.keys().next().value!);
  }

  conversation({ conversation_id, participants }: Conversation): void {
    for (const { user_id, received_seq, read_seq } of participants) {
      this.move(conversation_id, user_id, received_seq, read_seq);
    }
  }

  clear(): void {
    this.#marks.clear();
  }

  of(conversation_id: string, user_id: string): Marks {
    const [received_seq, read_seq] = this.#marks.get(conversation_id)?.get(user_id) ?? [0, 0];
    return { user_id, received_seq, read_seq };
  }

  stateOf({ conversation_id, receiver_id, seq, received_at }: Message): 'sent' | 'delivered' | 'read' {
    const [received, read] = this.#marks.get(conversation_id)?.get(receiver_id) ?? [0, 0];
    if (seq <= read) return 'read';
    return seq <= received || received_at !== null ? 'delivered' : 'sent';
  }
}

/** Up to where, by `_id`, and by `seq` where that is known. */
type Read = Pick<MessageRef, '_id' | 'seq'>;

/**
 * What was read and is told to nobody. The server still counts it as unread, so that its pages are corrected. Each
 * conversation has a key of its own in the store: tabs do not write over each other's.
 */
export class QuietReads {
  readonly #reads = new Map<string, Read>();
  #store: { store: Store; prefix: string; failed: (cause: unknown) => void } | undefined;

  async open(store: Store, prefix: string, failed: (cause: unknown) => void): Promise<void> {
    const early = [...this.#reads];
    this.#store = { store, prefix, failed };
    for (const [conversation_id, read] of early) this.#write(conversation_id, read);
    const keys = await store.keys(prefix);
    const values = await Promise.all(keys.map((key) => store.get(key)));
    for (const [index, key] of keys.entries()) {
      const read = parse(values[index]);
      const conversation_id = key.slice(prefix.length);
      const known = this.#reads.get(conversation_id)?._id ?? 0;
      if (read && read._id > known) this.#reads.set(conversation_id, read);
    }
  }

  /** False if it was read before. */
  keep({ conversation_id, _id, seq }: MessageRef): boolean {
    const before = this.#reads.get(conversation_id);
    if (before && before._id >= _id) return false;
    const read: Read = seq === undefined ? { _id } : { _id, seq };
    this.#reads.set(conversation_id, read);
    this.#write(conversation_id, read);
    return true;
  }

  /** The server knows as much, or more. */
  told(conversation_id: string, read_seq: number): void {
    const { seq } = this.#reads.get(conversation_id) ?? {};
    if (seq !== undefined && seq <= read_seq) this.#forget(conversation_id);
  }

  /** What these marks were of is gone. */
  clear(): void {
    for (const conversation_id of [...this.#reads.keys()]) this.#forget(conversation_id);
  }

  /** A conversation as the server tells it, with what only this machine knows. Changes it. */
  correct(conversation: Conversation, userId: string | undefined): void {
    const { conversation_id, last_message, participants } = conversation;
    const read = this.#reads.get(conversation_id);
    if (!read) return;
    const seq = last_message && last_message._id <= read._id ? conversation.seq : read.seq;
    if (seq === undefined) return;
    // In the server's own marks there may be more by now.
    const told = participants.find((marks) => marks.user_id === userId);
    if (told && told.read_seq >= seq) return this.#forget(conversation_id);
    conversation.unread = Math.min(conversation.unread, Math.max(0, conversation.seq - seq));
    if (told) Object.assign(told, { received_seq: Math.max(told.received_seq, seq), read_seq: seq });
  }

  #write(conversation_id: string, read: Read): void {
    const { store, prefix, failed } = this.#store ?? {};
    store?.set(prefix + conversation_id, JSON.stringify(read)).catch(failed);
  }

  #forget(conversation_id: string): void {
    this.#reads.delete(conversation_id);
    const { store, prefix, failed } = this.#store ?? {};
    store?.delete(prefix + conversation_id).catch(failed);
  }
}

function parse(value: string | undefined): Read | undefined {
  try {
    const read = JSON.parse(value ?? '') as Read;
    return typeof read._id === 'number' ? read : undefined;
  } catch {
    return undefined;
  }
}
