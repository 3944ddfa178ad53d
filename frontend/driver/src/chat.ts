/** The parts, put together: what `connect` gives. */
import { ChatError } from './errors.js';
import { Ladder, TRANSPORTS } from './ladder.js';
import { MarkBook } from './marks.js';
import { mayPass, OutgoingQueue } from './outgoing.js';
import { PlaceKeeper, type Place } from './place.js';
import { Pump } from './pump.js';
import { Receipts } from './receipts.js';
import { Rest } from './rest.js';
import { Seats } from './seats.js';
import { openStore } from './store.js';
import { Tabs } from './tabs.js';
import { Pause } from './time.js';
import { Tokens } from './token.js';
import type * as api from './types.js';
import { readMessage, subjectOf, type Lost, type WireConversations, type WireEvent, type WireHistory } from './wire.js';

const TIMING: api.Timing = {
  ready: 8_000,
  answer: 15_000,
  silence: 10_000,
  poll: 25_000,
  retry: 500,
  retryMax: 30_000,
  climb: 10_000,
  climbMax: 300_000,
  stable: 30_000,
};

/** Begins at once; what comes first comes after this turn, so that `on` is in time. */
export function connect(options: api.ConnectOptions): api.Chat {
  return new Connected(options);
}

type Handlers = { [E in keyof api.ChatEvents]: Set<api.ChatEvents[E]> };

class Connected implements api.Chat {
  userId: string | undefined;
  status: api.Status = { state: 'connecting' };

  readonly #options: api.ConnectOptions;
  readonly #timing: api.Timing;
  readonly #url: string;
  readonly #tokens: Tokens;
  readonly #rest: Rest;
  readonly #seats: Seats;
  #ladder: Ladder | undefined;
  readonly #pump: Pump;
  readonly #queue: OutgoingQueue;
  readonly #receipts: Receipts;
  readonly #marks = new MarkBook();
  readonly #retry = new Pause();
  readonly #handlers: Handlers = {
    message: new Set(),
    receipt: new Set(),
    outgoing: new Set(),
    status: new Set(),
    loaded: new Set(),
    reset: new Set(),
    error: new Set(),
  };
  #tabs: Tabs | undefined;
  #places: PlaceKeeper | undefined;
  #store: api.Store | undefined;
  #stored = false;
  #place: Place | undefined;
  #loaded = false;
  #closed = false;
  readonly #deaf: () => void;

  constructor(options: api.ConnectOptions) {
    this.#options = options;
    this.#timing = { ...TIMING, ...options.timing };
    const { origin, pathname } = new URL(options.url);
    this.#url = origin + pathname.replace(/\/$/, '');
    this.#seats = new Seats(`chat-system ${this.#url}`);
    this.#tokens = new Tokens(options.token, 4 * this.#timing.answer);
    this.userId = options.userId ?? (typeof options.token === 'string' ? subjectOf(options.token) : undefined);
    const fetching = options.fetch ?? fetch.bind(globalThis);
    this.#rest = new Rest({ url: this.#url, tokens: this.#tokens, timing: this.#timing, fetch: fetching });
    const passable = () => this.#ladder?.passable ?? false;
    this.#queue = new OutgoingQueue({
      timing: this.#timing,
      passable,
      command: (name, payload, byRest) => this.#command(name, payload, byRest),
      stateOf: (message) => this.#marks.stateOf(message),
      changed: (entry, discarded) => void this.#emit('outgoing', entry, discarded),
      error: (error) => this.#error(error),
    });
    this.#receipts = new Receipts({
      timing: this.#timing,
      passable,
      command: (name, payload) => this.#command(name, payload),
    });
    this.#pump = new Pump({
      message: (message, event) => this.#message(message, event),
      other: (event) => this.#other(event),
      lost: (lost) => this.#lost(lost),
      between: (after, before) => this.#between(after, before),
      reached: (place) => this.#reached(place),
      error: (error) => this.#error(error),
    });
    this.#deaf = listen(
      () => this.#wake(),
      () => this.#ladder?.refresh(),
    );
    this.#start(fetching).catch((cause) => this.#fault(cause));
  }

  get cursor(): string | undefined {
    return this.#place?.cursor;
  }

  on<E extends keyof api.ChatEvents>(event: E, handler: api.ChatEvents[E]): () => void {
    // A wrapper's identity, so that the same function can be registered twice.
    const own = ((...args: never[]) => (handler as (...args: never[]) => unknown)(...args)) as api.ChatEvents[E];
    this.#handlers[event].add(own);
    return () => void this.#handlers[event].delete(own);
  }

  send(draft: api.Draft): api.Outgoing {
    return this.#queue.add(draft);
  }

  outgoing(): api.Outgoing[] {
    return this.#queue.list();
  }

  retry(key: string): void {
    this.#queue.retry(key);
  }

  discard(key: string): boolean {
    return this.#queue.discard(key);
  }

  stateOf(message: api.Message): 'sent' | 'delivered' | 'read' {
    return this.#marks.stateOf(message);
  }

  async *history(query: { with: string; before?: number; limit?: number }): AsyncGenerator<api.HistoryPage, void, void> {
    let before = query.before;
    for (let more = true; more; ) {
      const page = await this.#historyPage({ ...query, before });
      before = page.messages.at(-1)?._id;
      more = page.more && before !== undefined;
      yield page;
    }
  }

  async *conversations(query: { before?: number; limit?: number } = {}): AsyncGenerator<api.Conversation, void, void> {
    let next: string | undefined = String(query.before ?? '');
    while (next !== undefined) {
      const before = next === '' ? undefined : Number(next);
      const page = await this.#conversationPage({ limit: query.limit, before });
      yield* page.conversations;
      next = new URLSearchParams(page.next?.split('?')[1]).get('before') ?? undefined;
    }
  }

  reload(): void {
    if (this.#loaded) this.#pump.push({ kind: 'task', run: () => this.#insist(() => this.#load()) });
  }

  received(upTo: api.MessageRef): Promise<api.Marks> {
    return this.#receipts.say('received', upTo);
  }

  read(upTo: api.MessageRef): Promise<api.Marks> {
    return this.#receipts.say('read', upTo);
  }

  authenticate(token: api.Token): void {
    this.#tokens.replace(token);
    this.#ladder?.again();
    this.#wake();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#deaf();
    this.#ladder?.close();
    this.#pump.close();
    this.#receipts.close();
    this.#retry.end();
    this.#say({ state: 'closed' });
    await this.#queue.close();
    await this.#places?.flush();
    this.#tabs?.close();
    this.#seats.close();
  }

  // --- The beginning ---

  async #start(fetching: typeof fetch): Promise<void> {
    // What comes first comes after the turn of whoever called `connect`.
    await undefined;
    const transports = this.#options.transports?.length ? this.#options.transports : TRANSPORTS;
    const store = (this.#store = await openStore(this.#options.store ?? 'memory'));
    const home = await store.get(`chat-system ${this.#url}/transport`).catch(() => undefined);
    this.#ladder = new Ladder({
      url: this.#url,
      tokens: this.#tokens,
      timing: this.#timing,
      fetch: fetching,
      seats: this.#seats,
      transports,
      home: transports.find((transport) => transport === home),
      prepare: () => this.#prepare(),
      cursor: () => this.#pump.cursor,
      forgetCursor: () => this.#forgetCursor(),
      ready: (_, { cursor, user_id }) => {
        this.userId ??= user_id;
        this.#pump.push({ kind: 'step', cursor });
      },
      lost: (lost) => void this.#pump.push({ kind: 'lost', lost, cursor: lost.cursor }),
      delivery: (delivery) => this.#taken(itemOf(delivery as WireEvent)),
      room: () => this.#pump.room(),
      held: (transport) => this.#kept(store.set(`chat-system ${this.#url}/transport`, transport)),
      status: (status) => this.#say(status),
      error: (error) => this.#error(error),
    });
    if (!this.#closed) await this.#ladder.run();
  }

  /** For whom, from where, and with `load` what there is. */
  async #prepare(): Promise<void> {
    if (!this.#places) await this.#moveIn();
    if (this.#options.load && !this.#loaded) await this.#load();
  }

  async #moveIn(): Promise<void> {
    this.userId ??= subjectOf(await this.#tokens.get());
    if (this.#closed) throw new ChatError('closed', 'closed');
    if (this.userId === undefined) {
      const detail = 'the token does not say whose it is, and userId is not given';
      throw ChatError.of({ code: 'user_unknown', status: 400, title: detail });
    }
    this.#tokens.expect(this.userId);
    const store = this.#store!;
    const scope = `chat-system ${this.#url} ${this.userId}`;
    const shared = typeof this.#options.store === 'string' && this.#options.store !== 'memory';
    this.#tabs ??= new Tabs(scope, (tab) => this.#queue.adopt(tab), shared);
    const places = new PlaceKeeper(store, scope, this.#tabs.id, (cause) => this.#storeFailed(cause));
    try {
      const place = this.#options.load ? undefined : await places.load();
      this.#stored = place !== undefined;
      this.#place = place;
      const { after } = this.#options;
      this.#pump.begin(place ?? (after === undefined || after === '' ? {} : { cursor: after }));
    } catch (cause) {
      this.#storeFailed(cause);
      this.#pump.begin(this.#options.after ? { cursor: this.#options.after } : {});
    }
    this.#places = places;
    await this.#queue.open({ scope, store, tabs: this.#tabs }).catch((cause) => this.#storeFailed(cause));
  }

  /** The server does not know the cursor that the store had: as lost as any. */
  async #forgetCursor(): Promise<boolean> {
    if (!this.#stored) return false;
    this.#stored = false;
    this.#pump.begin({});
    this.#pump.push({ kind: 'lost', lost: { reason: 'cursor_invalid', oldest: 0 } });
    return true;
  }

  /**
   * What there is, cut so that it is of one moment for each conversation: the messages up to the conversation's `seq`
   * are in it, and later ones come as events. The cursor was taken before the page was read, so that nothing falls
   * between; what falls on both sides is known by its `seq`.
   */
  async #load(): Promise<void> {
    const { conversations: limit = 50, messages = 50, with: peers = [] } = loadOptions(this.#options.load);
    const page = await this.#conversationPage({ limit }, true);
    const histories = new Map<string, api.HistoryPage>();
    for (const peer of peers) {
      const history = await this.#historyPage({ with: peer, limit: messages }, true);
      const listed = page.conversations.find((conversation) => conversation.with === peer);
      if (listed) history.messages = history.messages.filter(({ seq }) => seq <= listed.seq);
      histories.set(peer, history);
      if (history.messages[0]) this.#pump.knows(history.messages[0]);
    }
    if (this.#closed) return;
    for (const conversation of page.conversations) {
      if (conversation.last_message) this.#pump.knows(conversation.last_message);
      for (const { user_id, received_seq, read_seq } of conversation.participants) {
        this.#queue.marked(conversation.conversation_id, user_id, received_seq, read_seq);
      }
    }
    const again = this.#loaded;
    if (!again) this.#pump.begin({ cursor: page.cursor });
    this.#loaded = true;
    await this.#emit('loaded', { conversations: page.conversations, more: page.next !== null, histories, again });
    for (const { last_message, participants } of page.conversations) {
      const mine = participants.find(({ user_id }) => user_id === this.userId);
      if (last_message && (mine?.received_seq ?? 0) < last_message.seq) this.#acknowledge(last_message);
    }
  }

  // --- What comes out of the pump ---

  #taken(item: Parameters<Pump['push']>[0]): boolean {
    // Who has a connection says it to those who have none.
    const { link } = this.#ladder!;
    if (item.kind === 'event' && (link?.seat || link?.transport === 'websocket')) this.#seats.hint();
    return this.#pump.push(item);
  }

  async #message(message: api.Message, event: WireEvent): Promise<void> {
    if (event.key !== undefined && event.actor_id === this.userId) this.#queue.seen(event.key, message);
    // Whoever writes has read what is before it, and no receipt says so.
    this.#mark(message.conversation_id, message.sender_id, message.seq, message.seq);
    await this.#emit('message', message, event);
    this.#acknowledge(message);
  }

  #acknowledge(message: api.Message): void {
    const { autoReceived } = this.#options;
    if (autoReceived && message.sender_id !== this.userId && !this.#closed) void this.#receipts.say('received', message);
  }

  #other(event: WireEvent): unknown {
    const { type, conversation_id, actor_id, up_to } = event;
    if ((type !== 'receipt.received' && type !== 'receipt.read') || !up_to) return undefined;
    const kind = type === 'receipt.read' ? 'read' : 'received';
    const receipt: api.Receipt = { type: kind, conversation_id, user_id: actor_id, up_to };
    this.#mark(conversation_id, actor_id, up_to.seq, kind === 'read' ? up_to.seq : 0);
    return this.#emit('receipt', receipt, event);
  }

  /** Somebody has received, and read, up to a `seq`. */
  #mark(conversation_id: string, user_id: string, received: number, read: number): void {
    this.#marks.move(conversation_id, user_id, received, read);
    this.#queue.marked(conversation_id, user_id, received, read);
  }

  async #lost({ reason, oldest }: Pick<Lost, 'reason' | 'oldest'>): Promise<void> {
    this.#marks.clear();
    await this.#emit('reset', { reason, oldest });
    // After it was told, so that a crash before that tells it again.
    await this.#places?.forget().catch((cause) => this.#storeFailed(cause));
    if (this.#options.load) await this.#insist(() => this.#load());
  }

  async #between(after: api.Message, before: api.Message): Promise<api.Message[]> {
    const { conversation_id } = before;
    const users = conversation_id.split(',');
    const peer = users.find((user) => user !== this.userId) ?? users[0]!;
    const messages: api.Message[] = [];
    for (let last = after._id; ; ) {
      const range = { with: peer, after: last, before: before._id, limit: 200 };
      const page = await this.#insist(() => this.#rest.command('history', range) as Promise<WireHistory>);
      if (!page) return messages;
      messages.push(...page.messages.map(readMessage));
      last = page.messages.at(-1)?._id ?? last;
      if (page.next === null || page.messages.length === 0) return messages;
    }
  }

  #reached(place: Place): void {
    this.#place = place;
    // Whoever loads begins with what is there, and never where another life was.
    if (!this.#options.load) this.#places?.keep(place);
  }

  // --- Asking ---

  /** By the link where it carries commands, by REST otherwise. */
  async #command(name: string, payload: Record<string, unknown>, byRest = false): Promise<unknown> {
    const link = byRest ? undefined : this.#ladder?.link;
    return link?.command ? link.command(name, payload) : this.#rest.command(name, payload);
  }

  /** What only reads is asked for by REST where the link fails with it. */
  async #read(name: string, payload: Record<string, unknown>, byRest = false): Promise<unknown> {
    const given = Object.fromEntries(Object.entries(payload).filter(([, value]) => value !== undefined));
    try {
      return await this.#command(name, given, byRest);
    } catch (error) {
      if (byRest || !(error instanceof ChatError) || error.status !== 0 || this.#closed) throw error;
      return this.#rest.command(name, given);
    }
  }

  async #historyPage(query: { with: string; before?: number | undefined; limit?: number }, byRest = false): Promise<api.HistoryPage> {
    const page = (await this.#read('history', query, byRest)) as WireHistory;
    return { messages: page.messages.map(readMessage), more: page.next !== null };
  }

  async #conversationPage(query: { before?: number | undefined; limit?: number | undefined }, byRest = false): Promise<WireConversations> {
    const page = (await this.#read('conversations', query, byRest)) as WireConversations;
    for (const conversation of page.conversations) {
      if (conversation.last_message) readMessage(conversation.last_message);
      this.#marks.conversation(conversation);
    }
    return page;
  }

  /** Until it succeeds, or the chat is closed. */
  async #insist<T>(ask: () => Promise<T>): Promise<T | undefined> {
    for (let failures = 0; !this.#closed; ) {
      try {
        return await ask();
      } catch (cause) {
        const error = cause instanceof ChatError ? cause : new ChatError('network', 'it cannot be loaded', { cause });
        if (!mayPass(error)) this.#error(error);
        await this.#retry.after(error, failures++, this.#timing);
      }
    }
    return undefined;
  }

  // --- Telling ---

  #emit<E extends keyof api.ChatEvents>(event: E, ...args: Parameters<api.ChatEvents[E]>): void | Promise<void> {
    const waits: PromiseLike<unknown>[] = [];
    for (const handler of [...this.#handlers[event]]) {
      try {
        const given: unknown = (handler as (...args: unknown[]) => unknown)(...args);
        if (typeof (given as PromiseLike<unknown> | undefined)?.then === 'function') waits.push(given as PromiseLike<unknown>);
      } catch (cause) {
        if (event !== 'error') this.#fault(cause);
      }
    }
    if (waits.length === 0) return undefined;
    return Promise.all(waits.map((wait) => wait.then(undefined, (cause) => event === 'error' || this.#fault(cause)))).then(() => {});
  }

  #fault(cause: unknown): void {
    this.#error(new ChatError('handler', 'a handler threw', { cause }));
  }

  #error(error: ChatError): void {
    if (!this.#closed) void this.#emit('error', error);
  }

  #storeFailed(cause: unknown): void {
    this.#error(new ChatError('store', 'the store failed', { cause }));
  }

  #kept(done: Promise<void>): void {
    done.catch((cause) => this.#storeFailed(cause));
  }

  #say(status: api.Status): void {
    this.status = status;
    void this.#emit('status', status);
    if (status.state !== 'connected') return;
    this.#queue.wake();
    this.#receipts.wake();
    this.#retry.cut();
  }

  #wake(): void {
    this.#retry.cut();
    this.#ladder?.wake();
    this.#queue.wake();
    this.#receipts.wake();
  }
}

function itemOf(event: WireEvent): Parameters<Pump['push']>[0] {
  const { cursor } = event;
  return typeof event.position === 'number' ? { kind: 'event', event, cursor } : { kind: 'step', cursor };
}

function loadOptions(load: api.ConnectOptions['load']): api.LoadOptions {
  return typeof load === 'object' ? load : {};
}

/** A reason to try again: somebody looks at the page, or the network is back. Not everything has such events. */
function listen(wake: () => void, online: () => void): () => void {
  const target = globalThis as Partial<Pick<EventTarget, 'addEventListener' | 'removeEventListener'>>;
  const page = typeof document === 'undefined' ? undefined : document;
  const looked = () => page?.visibilityState === 'visible' && wake();
  const back = () => {
    wake();
    online();
  };
  target.addEventListener?.('online', back);
  page?.addEventListener('visibilitychange', looked);
  return () => {
    target.removeEventListener?.('online', back);
    page?.removeEventListener('visibilitychange', looked);
  };
}
