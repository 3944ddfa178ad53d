/** How far everybody has received and read, as far as was seen. */
import type { Conversation, Message } from './types.js';

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

  stateOf({ conversation_id, receiver_id, seq, received_at }: Message): 'sent' | 'delivered' | 'read' {
    const [received, read] = this.#marks.get(conversation_id)?.get(receiver_id) ?? [0, 0];
    if (seq <= read) return 'read';
    return seq <= received || received_at !== null ? 'delivered' : 'sent';
  }
}
