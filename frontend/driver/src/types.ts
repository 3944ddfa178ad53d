/**
 * The whole public API. Everything that travels keeps the names that it has on the wire (`_id`, `conversation_id`),
 * so that a word means the same here, in the documentation of the server and in its log.
 *
 * Fields may be added to what the server sends, never taken away: ignore those that you do not know.
 */
import type { ChatError } from './errors.js';

/** A JWT whose `sub` is the user's id, or a function that gets one: called at the start and when a fresh one is needed. */
export type Token = string | (() => string | Promise<string>);

/** From the best to the one that passes everywhere. */
export type Transport = 'websocket' | 'polling' | 'sse' | 'long-poll';

export interface ConnectOptions {
  /** Where the server is, `https://chat.example`, with the prefix that a proxy adds, if it does: `https://example.org/chat`. */
  url: string;
  token: Token;
  /**
   * Where to begin, if the store has no cursor yet: a cursor, `"0"` for the beginning of the log. From now if absent.
   * Without a meaning where `load` is given.
   */
  after?: string;
  /**
   * What outlives a reload and is shared by the tabs of a browser: the cursor, and the messages that are not sent yet.
   * `memory` (the default) is for this object only; `local` and `indexeddb` fall back to it where they are missing.
   */
  store?: 'memory' | 'local' | 'indexeddb' | Store;
  /**
   * Begin with the conversations, and with the last page of some: event `loaded`, after that everything that happens
   * since, each thing once. After a `reset` the same again. For whoever shows what there is, as a page does; without it
   * you get what happened after your cursor, as a bot wants it.
   */
  load?: boolean | LoadOptions;
  /** Says `received` for each message of others by itself, once the handlers of `message` are done. Off by default. */
  autoReceived?: boolean;
  /** What others are told of what was received and read here. Everything by default; `setReceipts` changes it later. */
  receipts?: Partial<ReceiptSettings>;
  /** Whose token it is, where the token is no JWT that can be read, or cannot be had offline. */
  userId?: string;
  /** The claim of the token that has the user's id, where the server looks for another one than `sub` (`CHAT_JWT_USER_CLAIM`). */
  userClaim?: string;
  /** The rungs of the ladder, from the top. All four by default. */
  transports?: readonly Transport[];
  /** Milliseconds; for slow networks, and for tests. */
  timing?: Partial<Timing>;
  /** In place of the global `fetch`. */
  fetch?: typeof fetch;
}

export interface LoadOptions {
  /** User ids of those with whom the last page is loaded too. */
  with?: readonly string[];
  /** How many conversations, 1 to 200; 50 by default. More by `conversations({ before })`. */
  conversations?: number;
  /** How many messages of each, 1 to 200; 50 by default. */
  messages?: number;
}

/**
 * Which marks leave this machine. A kind that is off is told to nobody: whoever wrote sees `sent` in place of `delivered`,
 * and `delivered` in place of `read`. What is unread is counted here all the same, with the marks that the store keeps;
 * other devices do not know them.
 *
 * - `read` implies `received` for the server: without `received` a mark of `read` tells both.
 * - A mark covers all that is before it: the first one that is told after it was switched on tells that too.
 * - Whoever answers has read what was before the answer, and everybody sees the answer.
 */
export interface ReceiptSettings {
  received: boolean;
  read: boolean;
}

/** Milliseconds, all of them. */
export interface Timing {
  /** From the first byte of a connection to its `ready`. 8,000. */
  ready: number;
  /** How long the answer to a command or a request may take. 15,000. */
  answer: number;
  /** Silence of a stream beyond the heartbeat that the server promises. 10,000. */
  silence: number;
  /** How long one poll waits for something to happen, at most 60,000. 25,000. */
  poll: number;
  /** How long a store may take for what it is asked. 5,000. */
  store: number;
  /** The first pause after a failure; doubled each time, with jitter, and longer where the server or a proxy asks for it. 500. */
  retry: number;
  /** The longest such pause of its own accord; what others ask for is kept up to 60,000. 30,000. */
  retryMax: number;
  /** The first pause before a better rung is tried; doubled each time that it fails. 10,000. */
  climb: number;
  /** The longest such pause. 300,000. */
  climbMax: number;
  /** A rung that held so long is a good one: its next failure is the first. 30,000. */
  stable: number;
}

/** Four verbs on strings. Keys are ASCII, and so are values: JSON, bytes in base64. */
export interface Store {
  get(key: string): Promise<string | undefined>;
  set(key: string, value: string): Promise<void>;
  delete(key: string): Promise<void>;
  /** All keys that begin so. */
  keys(prefix: string): Promise<string[]>;
}

export interface Message {
  /** Grows in the order that everybody sees. */
  _id: number;
  conversation_id: string;
  /** Counts the messages of the conversation: 1, 2, 3… without a hole. */
  seq: number;
  sender_id: string;
  receiver_id: string;
  /** Seconds since the Unix epoch. */
  sent_at: number;
  /** When the receiver first said that it has the message, as far as was known when this was read. */
  received_at: number | null;
  /** Absent with its content, where a message was erased. */
  content_type?: string;
  /** Exactly one of `text` and `data`. */
  text?: string;
  data?: Uint8Array;
}

/** How far somebody has received and read a conversation: the `seq` of the last such message, 0 for none. */
export interface Marks {
  user_id: string;
  received_seq: number;
  read_seq: number;
}

export interface Conversation {
  conversation_id: string;
  /** The other one; null for a room; oneself for notes to oneself. */
  with: string | null;
  /** How many messages there are. */
  seq: number;
  /** How many of them you have not marked as read. */
  unread: number;
  last_message: Message | null;
  participants: Marks[];
  /** Whether these are all. A conversation with many may come to list some of them. */
  participants_complete?: boolean;
}

/** Somebody has received, or read, everything up to a message. `read` implies `received`. */
export interface Receipt {
  type: 'received' | 'read';
  conversation_id: string;
  user_id: string;
  up_to: { _id: number; seq: number };
}

/** Something that happened, as the server tells it. */
export interface ChatEvent {
  position: number;
  type: string;
  conversation_id: string;
  actor_id: string;
  /** The service that acted for the actor. */
  via?: string;
  occurred_at: string;
  /** The key of the command: of your own messages, that of `send`. */
  key?: string;
  [field: string]: unknown;
}

/** What there is, as of one moment: what happens after it comes as events. */
export interface Loaded {
  /** The newest first. */
  conversations: Conversation[];
  /** There are older conversations: `conversations({ before: the last one's last_message._id })`. */
  more: boolean;
  /** By user id, those of `load.with`: the newest page of each. */
  histories: Map<string, HistoryPage>;
  /** It was loaded before: a `reset`, or `reload()`. Replace what you show. */
  again: boolean;
}

export interface HistoryPage {
  /** The newest first; with `after` the oldest first. */
  messages: Message[];
  /** There are older ones; with `after` newer ones. */
  more: boolean;
}

export interface Draft {
  /** A user id. */
  to: string;
  /** Exactly one of `text` and `data`. */
  text?: string;
  data?: Uint8Array | ArrayBuffer | Blob;
  /** `text/plain` and `application/octet-stream` by default; a Blob's own type. */
  contentType?: string;
  /**
   * A key of your own, 1 to 64 visible ASCII characters: for a program that may say the same twice, as when it crashes
   * between its answer and its cursor. The same message under the same key is recorded once, however late.
   */
  key?: string;
}

/**
 * `pending` until the server has it; `sent` then; `delivered` and `read` once the receiver says so, or
 * answers; `failed` if it was refused for good, or answered with a failure too often: `retry` or `discard` it.
 */
export type OutgoingState = 'pending' | 'sent' | 'delivered' | 'read' | 'failed';

/** A message on its way. The same object changes: listen to `outgoing`. */
export interface Outgoing {
  /** Its name from now on; the event of the message has it too, so a page can put the one in place of the other. */
  readonly key: string;
  readonly to: string;
  readonly text?: string | undefined;
  readonly data?: Uint8Array | undefined;
  readonly contentType?: string | undefined;
  /** Milliseconds since the Unix epoch, by the clock of this machine. */
  readonly createdAt: number;
  readonly state: OutgoingState;
  /** Once it is sent. */
  readonly message?: Message | undefined;
  /** Why it failed. */
  readonly error?: ChatError | undefined;
  /** The message, once the server has it for good; rejected with a `ChatError` when it fails or is discarded. */
  readonly sent: Promise<Message>;
}

/**
 * - `connecting`: trying now.
 * - `connected`: live, over `transport`.
 * - `waiting`: nothing got through; the next attempt is at `retryAt`, or as soon as the machine is online.
 * - `failed`: refused for good, by `error`; `authenticate` goes on with another token.
 * - `closed`: by `close()`.
 */
export interface Status {
  state: 'connecting' | 'connected' | 'waiting' | 'failed' | 'closed';
  transport?: Transport;
  /** Milliseconds since the Unix epoch. */
  retryAt?: number;
  error?: ChatError;
  /** Why the store keeps nothing at present: what is not sent yet, and the cursor, do not outlive this page or process. */
  store?: ChatError;
}

export interface Reset {
  /** `ahead`, `other_epoch`, `pruned`, or one of a newer server; here `cursor_invalid`, and `store` where it cannot be read. */
  reason: string;
  /** The first position that is still there. */
  oldest: number;
}

/**
 * Handlers are called one after the other, in the order of the log; one that gives a promise is waited for before the
 * next thing is given and before the cursor moves past it. What a handler throws goes to `error`, and the log goes on.
 */
export interface ChatEvents {
  /** A message, of others or one's own, once. */
  message: (message: Message, event: ChatEvent) => unknown;
  receipt: (receipt: Receipt, event: ChatEvent) => unknown;
  /** A message on its way was added, has changed its state, or was discarded (`discarded` is true). */
  outgoing: (outgoing: Outgoing, discarded: boolean) => unknown;
  status: (status: Status) => unknown;
  /** Only with the option `load`. */
  loaded: (loaded: Loaded) => unknown;
  /** The log cannot be followed from where you were: load again what you show. With `load`, `loaded` follows. */
  reset: (reset: Reset) => unknown;
  /** What nobody waits for: a refusal, a handler that threw, a hole that could not be filled. */
  error: (error: ChatError) => unknown;
}

/** A message, or as much of it as a receipt needs; `seq` where the mark is kept here, by which what is unread is counted. */
export type MessageRef = Pick<Message, '_id' | 'conversation_id'> & Partial<Pick<Message, 'seq'>>;

export interface Chat {
  /** Calls `handler` from now on, until the function that it returns is called. What comes first comes after this turn. */
  on<E extends keyof ChatEvents>(event: E, handler: ChatEvents[E]): () => void;

  /** Whose chat it is, once it is known. */
  readonly userId: string | undefined;
  readonly status: Status;
  /** What the server can do beyond the first version, by its last `ready`; nothing before that. */
  readonly features: readonly string[];
  /** After the last thing that you were given, or a little before it, where a connection took over from another. Opaque. */
  readonly cursor: string | undefined;

  /** Puts a message in the queue. It never throws: what is wrong with it makes it `failed`. */
  send(draft: Draft): Outgoing;
  /** Those that are pending or failed, in their order. */
  outgoing(): Outgoing[];
  /** Puts one that failed at the end of the queue. */
  retry(key: string): void;
  /** Forgets one that failed, or that has not been tried yet. False if it may be with the server already. */
  discard(key: string): boolean;
  /** `sent`, `delivered` or `read`, for a message of one's own, by the receipts and conversations seen so far. */
  stateOf(message: Message): 'sent' | 'delivered' | 'read';

  /**
   * Pages of a conversation, the newest first; with `after` (an `_id`) from the message behind it on, the oldest first. A
   * page may hold what comes as an event too: `_id` tells.
   */
  history(query: { with: string; before?: number; after?: number; limit?: number }): AsyncGenerator<HistoryPage, void, void>;
  /** All conversations, the newest first, from the one before which `before` says (an `_id`). */
  conversations(query?: { before?: number; limit?: number }): AsyncGenerator<Conversation, void, void>;
  /** With the option `load`: loads again, in the place in the log where it is. */
  reload(): void;

  /** Everything up to this message has been received; kept until the server has it, or here where that is switched off. */
  received(upTo: MessageRef): Promise<Marks>;
  /** Everything up to this message has been read, and so received. */
  read(upTo: MessageRef): Promise<Marks>;
  /** What others are told from now on, also of marks that still wait. */
  setReceipts(receipts: Partial<ReceiptSettings>): void;
  readonly receipts: Readonly<ReceiptSettings>;

  /** Another token, of the same user: goes on where it failed. */
  authenticate(token: Token): void;
  /**
   * Ends the connection; what is pending stays in the store. With `forget`, for signing out, nothing of this user does:
   * ask before it, if there is something in `outgoing()`.
   */
  close(options?: { forget?: boolean }): Promise<void>;
}
