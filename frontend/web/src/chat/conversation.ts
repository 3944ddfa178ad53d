/**
 * One conversation as the page has it: how far each side is, and a run of its messages without a hole, because `seq`
 * counts them. The run ends with the newest message, or before it where more is unread than a page holds.
 */
import { computed, signal, type ReadonlySignal, type Signal } from '@preact/signals';
import type { Message, Outgoing } from 'chat-system-client';
import { keepDraft, keptDraft } from '../drafts';
import { kindOf, pictureType, type Kind } from './content';

/** A message as it is shown. Bytes are in a blob, which the browser keeps outside of the page's memory. */
export interface Shown {
  /** Its name among the elements: that of the message on its way, so that its element stays when it arrives. */
  key: string;
  id: number;
  seq: number;
  from: string;
  sentAt: number;
  contentType: string | undefined;
  /** Null where it was erased. */
  kind: Kind | null;
  text: string | undefined;
  blob: Blob | undefined;
}

export type Loading = 'no' | 'first' | 'older' | 'newer' | 'failed';

/** How many messages stay when a conversation is left. */
const KEPT = 200;

export class Conversation {
  readonly id: string;
  readonly peer: string;
  readonly self: boolean;

  readonly total = signal(0);
  readonly last: Signal<Shown | null> = signal(null);
  readonly myRead = signal(0);
  readonly theirReceived = signal(0);
  readonly theirRead = signal(0);
  /** The marks are the server's, and not only what has come since. */
  readonly marked = signal(true);
  readonly unread: ReadonlySignal<number> = computed(() =>
    this.marked.value ? Math.max(0, this.total.value - this.myRead.value) : 0,
  );

  /** In the order of the log. Read `version` to be told of changes: the array is changed in place. */
  messages: Shown[] = [];
  readonly version = signal(0);
  readonly older = signal(true);
  readonly loading: Signal<Loading> = signal('no');
  readonly pending: Signal<readonly Outgoing[]> = signal([]);
  /** The first message that was unread when somebody began to look at it. */
  newFrom: number | null = null;
  /** A run was loaded. */
  opened = false;
  /** Counts the runs: another one may have no message of the one before. */
  run = 0;

  constructor(
    private readonly me: string,
    peer: string,
  ) {
    this.peer = peer;
    this.self = me === peer;
    // Both are ASCII, so this is the order of the bytes.
    this.id = [me, peer].sort().join(',');
  }

  /** What stands in the composer, and is kept until it is sent. */
  get draft(): string {
    return (this.written ??= keptDraft(this.me, this.peer));
  }

  set draft(text: string) {
    this.written = text;
    keepDraft(this.me, this.peer, text);
  }

  private written: string | undefined;

  /** There are messages after the run. */
  get newer(): boolean {
    const newest = this.messages[this.messages.length - 1];
    return newest !== undefined && newest.seq < this.total.peek();
  }

  /** Whether the first unread message, if there is one, is in the run. */
  get reachesUnread(): boolean {
    const [oldest, newest] = [this.messages[0], this.messages[this.messages.length - 1]];
    if (!oldest || !newest || this.unread.peek() === 0) return !this.newer;
    const first = this.myRead.peek() + 1;
    return oldest.seq <= first && first <= newest.seq;
  }

  /** A message that was just recorded. False if it leaves a hole: then what is between has to be loaded. */
  append(shown: Shown): boolean {
    const { newer } = this;
    this.see(shown);
    // What is after the run comes with a page.
    if (!this.opened || newer) return true;
    const next = (this.messages.at(-1)?.seq ?? shown.seq - 1) + 1;
    if (shown.seq > next) return false;
    if (shown.seq === next) {
      this.messages.push(shown);
      this.version.value += 1;
    }
    return true;
  }

  /** Puts a page where it belongs; what there is stays. False if it does not reach what there is. */
  merge(page: readonly Shown[]): boolean {
    const [first, last] = [page[0], page.at(-1)];
    if (!first || !last) return true;
    this.see(last);
    const [oldest, newest] = [this.messages[0], this.messages.at(-1)];
    if (!oldest || !newest) {
      this.messages = [...page];
    } else if (last.seq < oldest.seq - 1 || first.seq > newest.seq + 1) {
      return false;
    } else {
      this.messages = [
        ...page.filter(({ seq }) => seq < oldest.seq),
        ...this.messages,
        ...page.filter(({ seq }) => seq > newest.seq),
      ];
    }
    this.version.value += 1;
    return true;
  }

  /** Forgets the messages: the log is another, or others are wanted. */
  clear(): void {
    this.messages = [];
    this.opened = false;
    this.older.value = true;
    this.run += 1;
    this.version.value += 1;
  }

  /** Somebody begins to look at it. */
  enter(): void {
    if (this.opened && !this.reachesUnread) this.clear();
    this.newFrom = this.unread.peek() > 0 ? this.myRead.peek() + 1 : null;
  }

  /** The conversation is not looked at any more. */
  leave(): void {
    this.newFrom = null;
    if (this.messages.length > KEPT) {
      this.messages = this.messages.slice(-KEPT);
      this.older.value = true;
      this.version.value += 1;
    }
    // The next look at it begins where this one has not come to.
    if (!this.reachesUnread) this.clear();
  }

  private see(shown: Shown): void {
    if (shown.seq > this.total.value) this.total.value = shown.seq;
    if (shown.seq >= (this.last.value?.seq ?? 0)) this.last.value = shown;
  }
}

export function shown(message: Message, key?: string): Shown {
  const { text, data, content_type: contentType } = message;
  const erased = text === undefined && data === undefined;
  const kind = erased ? null : kindOf(contentType, text !== undefined);
  const bytes = data as Uint8Array<ArrayBuffer> | undefined;
  return {
    key: key ?? String(message._id),
    id: message._id,
    seq: message.seq,
    from: message.sender_id,
    sentAt: message.sent_at,
    contentType,
    kind,
    text,
    blob: bytes && new Blob([bytes], { type: pictureType(contentType ?? '') }),
  };
}
