/** The parts, put together: what `connect` gives. */
import { ChatError } from './errors.js';
import { featuresIn, fields } from './features.js';
import { Ladder, TRANSPORTS } from './ladder.js';
import { MarkBook, QuietReads } from './marks.js';
import { OutgoingQueue } from './outgoing.js';
import { PlaceKeeper, type Place } from './place.js';
import { Pump } from './pump.js';
import { Receipts } from './receipts.js';
import { Rest } from './rest.js';
import { Seats } from './seats.js';
import { MemoryStore, openStore, Prompt } from './store.js';
import { Tabs } from './tabs.js';
import { Pause, within } from './time.js';
import { Tokens } from './token.js';
import { mayPass } from './tries.js';
import type * as api from './types.js';
import { readMessage, type Lost, type WireConversations, type WireEvent, type WireHistory } from './wire.js';

const TIMING: api.Timing = {
  ready: 8_000,
  answer: 15_000,
  silence: 10_000,
  poll: 25_000,
  store: 5_000,
  retry: 500,
  retryMax: 30_000,
  climb: 10_000,
  climbMax: 300_000,
  stable: 30_000,
};

/** Milliseconds: what is meant to be for ever is long enough by this, and still a time that timers know. */
const FOR_EVER = 1e9;

/** How many failures of something that nothing goes on without are told as one. */
const TOLD = 6;

/** Begins at once; what comes first comes after this turn, so that `on` is in time. */
export function connect(options: api.ConnectOptions): api.Chat {
  return new Connected(options);
}

type Handlers = { [E in keyof api.ChatEvents]: Set<api.ChatEvents[E]> };

class Connected implements api.Chat {
  userId: string | undefined;
  status: api.Status = { state: 'connecting' };
  features: readonly string[] = [];
  receipts: Readonly<api.ReceiptSettings>;

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
  /** Read, and told to nobody. */
  readonly #reads = new QuietReads();
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
  readonly #store: Promise<api.Store>;
  /** Why the store keeps nothing, since it has kept something. */
  #storeError: api.Status['store'];
  #stored = false;
  #place: Place | undefined;
  #loaded = false;
  #closed = false;
  readonly #deaf: () => void;

  constructor(options: api.ConnectOptions) {
    this.#options = options;
    this.#timing = timingOf(options.timing);
    this.receipts = { received: true, read: true, ...options.receipts };
    const { origin, pathname } = new URL(options.url);
    this.#url = origin + pathname.replace(/\/$/, '');
    this.#seats = new Seats(`chat-system ${this.#url}`);
    this.#tokens = new Tokens(options.token, 4 * this.#timing.answer, options.userClaim);
    this.userId = options.userId ?? (typeof options.token === 'string' ? this.#tokens.userOf(options.token) : undefined);
    const fetching = options.fetch ?? fetch.bind(globalThis);
    this.#rest = new Rest({ url: this.#url, tokens: this.#tokens, timing: this.#timing, fetch: fetching });
    const passable = () => this.#ladder?.passable ?? false;
    const heardAt = () => this.#ladder?.heardAt ?? 0;
    this.#queue = new OutgoingQueue({
      timing: this.#timing,
      passable,
      heardAt,
      command: (name, payload, byRest) => this.#command(name, payload, byRest),
      stateOf: (message) => this.#marks.stateOf(message),
      changed: (entry, discarded) => void this.#emit('outgoing', entry, discarded),
      storeFailed: (cause) => this.#storeFailed(cause),
    });
    this.#receipts = new Receipts({
      timing: this.#timing,
      passable,
      heardAt,
      command: (name, payload) => this.#command(name, payload),
      quiet: (type, upTo) => (this.receipts[type] ? undefined : this.#quiet(type, upTo)),
      error: (error) => this.#error(error),
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
      () => this.#ladder?.renew(),
    );
    this.#store = this.#openStore();
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

  async *history(query: { with: string; before?: number; after?: number; limit?: number }): AsyncGenerator<api.HistoryPage, void, void> {
    let { before, after } = query;
    for (let more = true; more; ) {
      const page = await this.#historyPage({ ...query, before, after });
      const last = page.messages.at(-1)?._id;
      if (query.after === undefined) before = last;
      else after = last;
      more = page.more && last !== undefined;
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

  setReceipts(receipts: Partial<api.ReceiptSettings>): void {
    this.receipts = { ...this.receipts, ...receipts };
    this.#receipts.wake();
  }

  authenticate(token: api.Token): void {
    this.#tokens.replace(token);
    this.#ladder?.again();
    this.#wake();
  }

  async close({ forget = false }: { forget?: boolean } = {}): Promise<void> {
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
    try {
      if (forget) await this.#forget();
    } catch (cause) {
      throw new ChatError('store', 'what the store has of this user is still there', { cause });
    } finally {
      this.#tabs?.close();
      this.#seats.close();
    }
  }

  /** What the store has of this user. */
  async #forget(): Promise<void> {
    const store = await this.#store;
    const scope = this.#scopeOf(this.userId);
    if (scope === undefined) return;
    await Promise.all((await store.keys(`${scope}/`)).map((key) => store.delete(key)));
  }

  /** Of each user his own: no id holds what stands between the parts of a key. */
  #scopeOf(userId: string | undefined): string | undefined {
    return userId === undefined ? undefined : `chat-system ${this.#url} ${encodeURIComponent(userId)}`;
  }

  // --- The beginning ---

  async #openStore(): Promise<api.Store> {
    // What it says comes after the turn of whoever called `connect`.
    await undefined;
    const store = await openStore(this.#options.store ?? 'memory', (cause) => this.#storeFailed(cause));
    return store instanceof MemoryStore ? store : new Prompt(store, this.#timing.store, () => this.#storeWorks());
  }

  async #start(fetching: typeof fetch): Promise<void> {
    // What comes first comes after the turn of whoever called `connect`.
    await undefined;
    const transports = this.#options.transports?.length ? this.#options.transports : TRANSPORTS;
    const store = await this.#store;
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
      ready: (_, { cursor, user_id, features }) => {
        this.userId ??= user_id;
        this.features = featuresIn(features);
        this.#pump.push({ kind: 'step', cursor });
      },
      lost: (lost) => void this.#pump.push({ kind: 'lost', lost, cursor: lost.cursor }),
      delivery: (delivery) => this.#taken(itemOf(delivery as WireEvent)),
      room: () => this.#pump.room(),
      held: (transport) => void store.set(`chat-system ${this.#url}/transport`, transport).catch((cause) => this.#storeFailed(cause)),
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
    this.userId ??= this.#tokens.userOf(await this.#tokens.get());
    if (this.#closed) throw new ChatError('closed', 'closed');
    if (this.userId === undefined) {
      const detail = 'the token does not say whose it is, and userId is not given';
      throw ChatError.of({ code: 'user_unknown', status: 400, title: detail });
    }
    this.#tokens.expect(this.userId);
    const store = await this.#store;
    const scope = this.#scopeOf(this.userId)!;
    const kind = this.#options.store;
    // A store that fell back to memory has no other tabs either.
    const shared = typeof kind === 'string' && store instanceof Prompt;
    this.#tabs ??= new Tabs(`${scope} ${String(kind)}`, (tab) => this.#queue.adopt(tab), shared);
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
    // What was given before a place that cannot be read is not known: that is lost like any other.
    const unread = this.#storeError && !this.#place && !this.#options.load && !this.#options.after;
    if (unread) this.#pump.push({ kind: 'lost', lost: { reason: 'store', oldest: 0 } });
    const failed = (cause: unknown) => this.#storeFailed(cause);
    await this.#reads.open(store, `${scope}/read/`, failed).catch(failed);
    const opened = this.#queue.open({ scope, store, tabs: this.#tabs });
    await within(this.#timing.answer, opened, () => new Error('what was left cannot be taken over in time')).catch(failed);
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
    if (user_id === this.userId) this.#reads.told(conversation_id, read);
    this.#marks.move(conversation_id, user_id, received, read);
    this.#queue.marked(conversation_id, user_id, received, read);
  }

  /** A mark that nobody is told of. What is not told as read may be told as received. */
  #quiet(type: api.Receipt['type'], upTo: api.MessageRef): api.Marks {
    const { conversation_id, _id } = upTo;
    const user_id = this.userId ?? '';
    const seq = upTo.seq ?? this.#pump.seqOf(conversation_id, _id);
    if (seq !== undefined) this.#marks.move(conversation_id, user_id, seq, type === 'read' ? seq : 0);
    if (type === 'read' && this.#reads.keep(seq === undefined ? { conversation_id, _id } : { conversation_id, _id, seq })) {
      if (this.receipts.received) void this.#receipts.say('received', upTo);
      if (seq !== undefined) this.#pump.push({ kind: 'task', run: async () => this.#quietReceipt(conversation_id, { _id, seq }) });
    }
    return this.#marks.of(conversation_id, user_id);
  }

  /** As if it had come from the server: whoever counts what is unread counts by this. */
  async #quietReceipt(conversation_id: string, up_to: api.Receipt['up_to']): Promise<void> {
    const user_id = this.userId ?? '';
    const receipt: api.Receipt = { type: 'read', conversation_id, user_id, up_to };
    const position = this.#place?.position ?? 0;
    const occurred_at = new Date().toISOString();
    const event = { position, type: 'receipt.read', conversation_id, actor_id: user_id, occurred_at, up_to };
    await this.#emit('receipt', receipt, event);
  }

  async #lost({ reason, oldest }: Pick<Lost, 'reason' | 'oldest'>): Promise<void> {
    this.#marks.clear();
    // Of another log a mark would call something read that nobody has seen.
    if (reason !== 'pruned' && reason !== 'store') this.#reads.clear();
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
    const given = fields(name, payload, this.features);
    return link?.command ? link.command(name, given) : this.#rest.command(name, given);
  }

  /** What only reads is asked for by REST where the link fails with it. */
  async #read(name: string, payload: Record<string, unknown>, byRest = false): Promise<unknown> {
    try {
      return await this.#command(name, payload, byRest);
    } catch (error) {
      if (byRest || !(error instanceof ChatError) || error.status !== 0 || this.#closed) throw error;
      return this.#command(name, payload, true);
    }
  }

  async #historyPage(query: { with: string; before?: number | undefined; after?: number | undefined; limit?: number }, byRest = false): Promise<api.HistoryPage> {
    const page = (await this.#read('history', query, byRest)) as WireHistory;
    return { messages: page.messages.map(readMessage), more: page.next !== null };
  }

  async #conversationPage(query: { before?: number | undefined; limit?: number | undefined }, byRest = false): Promise<WireConversations> {
    const page = (await this.#read('conversations', query, byRest)) as WireConversations;
    for (const conversation of page.conversations) {
      if (conversation.last_message) readMessage(conversation.last_message);
      this.#reads.correct(conversation, this.userId);
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
        // Nothing goes on without it, whatever the status says.
        if (!mayPass(error) || error.foreign || failures % TOLD === TOLD - 1) this.#error(error);
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

  /** Said once, until it has kept something again. */
  #storeFailed(cause: unknown): void {
    if (this.#storeError || this.#closed) return;
    this.#storeError = new ChatError('store', 'the store failed', { cause });
    this.#error(this.#storeError);
    this.#show(this.status);
  }

  #storeWorks(): void {
    if (!this.#storeError || this.#closed) return;
    this.#storeError = undefined;
    this.#show(this.status);
    this.#queue.keep();
  }

  #show({ store: _, ...status }: api.Status): void {
    this.status = this.#storeError ? { ...status, store: this.#storeError } : status;
    void this.#emit('status', this.status);
  }

  #say(status: api.Status): void {
    this.#show(status);
    if (status.state !== 'connected') return;
    this.#queue.wake();
    this.#receipts.wake();
    this.#retry.cut();
  }

  #wake(): void {
    this.#retry.end();
    this.#ladder?.wake();
    this.#queue.wake(true);
    this.#receipts.wake(true);
  }
}

function itemOf(event: WireEvent): Parameters<Pump['push']>[0] {
  const { cursor } = event;
  return typeof event.position === 'number' ? { kind: 'event', event, cursor } : { kind: 'step', cursor };
}

function loadOptions(load: api.ConnectOptions['load']): api.LoadOptions {
  return typeof load === 'object' ? load : {};
}

function timingOf(given: Partial<api.Timing> = {}): api.Timing {
  const timing = { ...TIMING };
  for (const name of Object.keys(TIMING) as (keyof api.Timing)[]) {
    const value = given[name];
    if (typeof value === 'number' && value >= 0) timing[name] = Math.min(value, FOR_EVER);
  }
  return timing;
}

/**
 * A reason to try again: somebody looks at the page, or the network is back. And a reason not to believe a connection that
 * is there: another network, or a page that was frozen, in the back/forward cache too. Not everything has such events.
 */
function listen(wake: () => void, renew: () => void): () => void {
  const target = globalThis as Partial<Pick<EventTarget, 'addEventListener' | 'removeEventListener'>>;
  const page = typeof document === 'undefined' ? undefined : document;
  const back = () => {
    renew();
    wake();
  };
  const looked = () => page?.visibilityState !== 'hidden' && wake();
  const shown = (event: Partial<PageTransitionEvent>) => event.persisted && back();
  const events: [typeof target | undefined, string, (event: Event) => unknown][] = [
    [target, 'online', back],
    [target, 'pageshow', shown],
    [target, 'focus', looked],
    [page, 'visibilitychange', looked],
    [page, 'resume', back],
  ];
  for (const [on, name, handler] of events) on?.addEventListener?.(name, handler);
  return () => {
    for (const [on, name, handler] of events) on?.removeEventListener?.(name, handler);
  };
}
