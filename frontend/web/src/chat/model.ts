/**
 * Everything that the page shows of a chat, made from the events of the client library and from nothing else: it does
 * what has to be right (order, once, no hole, the queue), this only keeps what is looked at.
 */
import { batch, computed, signal, type Signal } from '@preact/signals';
import {
  connect,
  type Chat,
  type ChatEvent,
  type Conversation as Listed,
  type Draft,
  type Loaded,
  type Message,
  type Outgoing,
  type Receipt,
  type ReceiptSettings,
  type Status,
} from 'chat-system-client';
import { forgetDrafts, hasDrafts } from '../drafts';
import { keepReceipts, keptReceipts } from '../receipts';
import { facts, serverUrl } from '../server';
import type { Session } from '../session';
import { inWords } from '../words';
import { nameOf, typeOf } from './content';
import { Conversation, shown, type Shown } from './conversation';

/** Messages in a page of history. */
const PAGE = 100;
/** The first page has what is unread and something before it, within these. */
const FIRST_PAGE = { least: 50, most: 200, before: 20 };
/** How often a page that does not reach what is there is asked for again, and after how many milliseconds. */
const TRIES = 5;
const SOON = 200;
/** Single messages that are asked for at most, to find where one stands in the log. Each second one halves what is left. */
const PROBES = 64;

/** Messages of a conversation, in the order of the log. */
interface Page {
  messages: Shown[];
  /** There are more in the direction in which it was asked for. */
  more: boolean;
}

export class Model {
  readonly me: string;
  readonly status: Signal<Status>;
  /** What others are told. */
  readonly receipts: Signal<ReceiptSettings>;
  /** The newest first. */
  readonly conversations: Signal<readonly Conversation[]> = signal([]);
  /** Whether the conversations are there. */
  readonly loaded = signal(false);
  readonly moreConversations = signal(false);
  /** The last message of somebody else that came while the page was there, for those who do not see it appear. */
  readonly arrived: Signal<{ from: string; shown: Shown } | null> = signal(null);
  /** What went wrong without anybody having waited for it. */
  readonly notice: Signal<string | null> = signal(null);
  readonly unread = computed(() => this.conversations.value.reduce((sum, { unread }) => sum + unread.value, 0));

  private readonly chat: Chat;
  private readonly byId = new Map<string, Conversation>();
  /** The conversations are listed down to this last message. */
  private listedTo: number | undefined;
  private readonly marking = new Map<Conversation, Promise<void>>();

  constructor(session: Session) {
    this.me = session.userId;
    this.chat = connect({
      url: serverUrl(),
      token: () => session.tokens(),
      userId: session.userId,
      userClaim: facts.userClaim,
      store: 'indexeddb',
      load: true,
      autoReceived: true,
      receipts: keptReceipts(session.userId),
    });
    this.receipts = signal(keptReceipts(session.userId));
    this.status = signal(this.chat.status);
    this.chat.on('status', (status) => {
      this.status.value = { ...status };
      if (status.state !== 'connected') return;
      this.notice.value = null;
      this.tryAgain();
    });
    this.chat.on('loaded', (loaded) => this.onLoaded(loaded));
    this.chat.on('message', (message, event) => batch(() => this.onMessage(message, event)));
    this.chat.on('receipt', (receipt) => batch(() => this.onReceipt(receipt)));
    this.chat.on('outgoing', (outgoing, discarded) => this.onOutgoing(outgoing, discarded));
    this.chat.on('error', (error) => {
      this.notice.value = inWords(error);
    });
    for (const outgoing of this.chat.outgoing()) this.onOutgoing(outgoing, false);
  }

  close(): Promise<void> {
    return this.chat.close();
  }

  setReceipts(receipts: ReceiptSettings): void {
    keepReceipts(this.me, receipts);
    this.receipts.value = receipts;
    this.chat.setReceipts(receipts);
  }

  /** How many messages wait to be sent, or were refused. */
  get unsent(): number {
    return this.chat.outgoing().length;
  }

  /** Something was written that would be lost: messages, or what was begun. */
  get hasUnsent(): boolean {
    return this.unsent > 0 || hasDrafts(this.me);
  }

  /** Ends it, and leaves nothing on this computer of what was written and not sent. */
  async forget(): Promise<void> {
    forgetDrafts(this.me);
    await this.chat.close({ forget: true });
  }

  /** The conversation with somebody, whether there is one yet or not. */
  with(peer: string): Conversation {
    const made = new Conversation(this.me, peer);
    const known = this.byId.get(made.id);
    if (known) return known;
    // It may be one of those that are not listed yet.
    made.marked.value = !this.moreConversations.value;
    this.byId.set(made.id, made);
    return made;
  }

  /** Somebody looks at it: what is unread is needed, from the first one on, and else the newest. */
  async open(conversation: Conversation): Promise<void> {
    if (conversation.opened || conversation.loading.value === 'first') return;
    await this.load(conversation, 'first', async () => {
      if (!conversation.marked.value) await this.readMarks(conversation);
      conversation.enter();
      const wanted = conversation.unread.value + FIRST_PAGE.before;
      // One is enough to search from.
      const limit = wanted > FIRST_PAGE.most ? 1 : Math.max(FIRST_PAGE.least, wanted);
      let page = await this.page(conversation, { limit });
      let older = page.more;
      const [oldest, firstUnread] = [page.messages[0], conversation.myRead.value + 1];
      if (oldest && conversation.unread.value > 0 && oldest.seq > firstUnread) {
        page = await this.pageAround(conversation, firstUnread, oldest);
        older = (page.messages[0]?.seq ?? 1) > 1;
      }
      this.take(conversation, page.messages, older);
    });
  }

  async loadOlder(conversation: Conversation): Promise<void> {
    const oldest = conversation.messages[0];
    if (!oldest || !conversation.older.value || conversation.loading.value !== 'no') return;
    await this.load(conversation, 'older', async () => {
      const page = await this.page(conversation, { limit: PAGE, before: oldest.id });
      if (conversation.messages[0] === oldest) this.take(conversation, page.messages, page.more);
    });
  }

  async loadNewer(conversation: Conversation): Promise<void> {
    const newest = conversation.messages[conversation.messages.length - 1];
    if (!newest || !conversation.newer || conversation.loading.value !== 'no') return;
    await this.load(conversation, 'newer', async () => {
      for (let tries = 0; tries < TRIES; tries += 1) {
        const { messages } = await this.page(conversation, { limit: PAGE, after: newest.id });
        if (conversation.messages[conversation.messages.length - 1] !== newest) return;
        if (messages.length > 0) return this.take(conversation, messages);
        await new Promise((resolve) => setTimeout(resolve, SOON));
      }
      throw new Error('what has come cannot be had');
    });
  }

  /** Somebody goes to the end, wherever he is. */
  async loadNewest(conversation: Conversation): Promise<void> {
    if (!conversation.newer || conversation.loading.value === 'first') return;
    await this.load(conversation, 'first', async () => {
      const page = await this.page(conversation, { limit: PAGE });
      this.take(conversation, page.messages, page.more);
    });
  }

  /** What failed to load is tried again. */
  tryAgain(): void {
    for (const conversation of this.byId.values()) {
      if (conversation.loading.value !== 'failed') {
        if (conversation.last.value) this.mark(conversation);
        continue;
      }
      // The list asks for what is older or newer as soon as it is needed.
      conversation.loading.value = 'no';
      if (conversation.messages.length === 0) void this.open(conversation);
    }
  }

  async loadMoreConversations(): Promise<void> {
    if (this.listedTo === undefined) return;
    const listed: Listed[] = [];
    try {
      for await (const conversation of this.chat.conversations({ before: this.listedTo, limit: PAGE })) {
        listed.push(conversation);
        if (listed.length > PAGE) break;
      }
    } catch (error) {
      this.notice.value = inWords(error as { code: string; status: number });
      return;
    }
    this.moreConversations.value = listed.length > PAGE;
    batch(() => {
      for (const conversation of listed.slice(0, PAGE)) this.list(conversation);
      this.listDownTo(listed.slice(0, PAGE), !this.moreConversations.value);
    });
    this.sort();
  }

  send(conversation: Conversation, content: string | File): void {
    const draft: Draft = { to: conversation.peer };
    if (typeof content === 'string') draft.text = content;
    else Object.assign(draft, { data: content, contentType: typeOf(content) });
    this.onOutgoing(this.chat.send(draft), false);
    void this.loadNewest(conversation);
  }

  retry(outgoing: Outgoing): void {
    this.chat.retry(outgoing.key);
  }

  discard(outgoing: Outgoing): void {
    this.chat.discard(outgoing.key);
  }

  /** Everything up to this message was seen by whoever sits here. */
  read(conversation: Conversation, message: Shown): void {
    if (message.seq <= conversation.myRead.value) return;
    conversation.myRead.value = message.seq;
    // The library keeps it until the server has it; only a refusal for good comes back, and then nothing is to be done.
    this.chat.read({ _id: message.id, conversation_id: conversation.id }).catch(() => undefined);
  }

  private onLoaded(loaded: Loaded): void {
    batch(() => {
      if (loaded.again) {
        for (const conversation of this.byId.values()) conversation.clear();
      }
      this.moreConversations.value = loaded.more;
      this.listedTo = undefined;
      for (const conversation of this.byId.values()) conversation.marked.value = false;
      for (const conversation of loaded.conversations) this.list(conversation, loaded.again);
      this.listDownTo(loaded.conversations, !loaded.more);
      this.loaded.value = true;
    });
    this.sort();
  }

  private listDownTo(listed: readonly Listed[], all: boolean): void {
    for (const { last_message } of listed) {
      if (last_message) this.listedTo = Math.min(this.listedTo ?? Infinity, last_message._id);
    }
    if (!all) return;
    for (const conversation of this.byId.values()) conversation.marked.value = true;
  }

  /** How far everybody is in a conversation that is not listed yet: what is unread cannot be told without it. */
  private mark(conversation: Conversation): void {
    if (conversation.marked.value) return;
    // Tried again with the next message, when it is opened, and after the next connection.
    this.readMarks(conversation).catch(() => undefined);
  }

  private readMarks(conversation: Conversation): Promise<void> {
    const known = this.marking.get(conversation);
    if (known) return known;
    const marking = this.askForMarks(conversation).finally(() => this.marking.delete(conversation));
    this.marking.set(conversation, marking);
    return marking;
  }

  /** The list is by the last messages: the conversation is the first one of those that end not after its own. */
  private async askForMarks(conversation: Conversation): Promise<void> {
    let newest = conversation.last.value?.id;
    for (let tries = 0; tries < TRIES; tries += 1) {
      newest ??= (await this.page(conversation, { limit: 1 })).messages[0]?.id;
      if (newest === undefined) {
        conversation.marked.value = true;
        return;
      }
      for await (const listed of this.chat.conversations({ before: newest + 1, limit: 1 })) {
        if (listed.conversation_id !== conversation.id) break;
        batch(() => this.list(listed));
        return;
      }
      // It has gone on meanwhile.
      newest = undefined;
    }
    throw new Error('it goes on faster than it can be asked for');
  }

  private list(listed: Listed, again = false): void {
    // Rooms are to come; what is not known is left out.
    if (listed.with === null) return;
    const conversation = this.with(listed.with);
    if (again) {
      for (const mark of [conversation.total, conversation.myRead, conversation.theirRead, conversation.theirReceived]) {
        mark.value = 0;
      }
      conversation.last.value = null;
    }
    conversation.marked.value = true;
    raise(conversation.total, listed.seq);
    if (listed.last_message && listed.last_message.seq >= (conversation.last.value?.seq ?? 0)) {
      conversation.last.value = shown(listed.last_message);
    }
    this.settle(conversation);
    for (const marks of listed.participants) {
      if (marks.user_id === this.me) raise(conversation.myRead, marks.read_seq);
      if (marks.user_id !== this.me || conversation.self) {
        raise(conversation.theirReceived, marks.received_seq);
        raise(conversation.theirRead, marks.read_seq);
      }
    }
  }

  private onMessage(message: Message, event: ChatEvent): void {
    if (message.conversation_id.startsWith('~')) return;
    const mine = message.sender_id === this.me;
    const conversation = this.with(mine ? message.receiver_id : message.sender_id);
    const made = shown(message, mine ? event.key : undefined);
    // Whoever writes has read what is before it.
    if (mine) raise(conversation.myRead, message.seq);
    if (!mine || conversation.self) {
      raise(conversation.theirReceived, message.seq);
      raise(conversation.theirRead, message.seq);
    }
    if (!conversation.append(made)) void this.loadNewer(conversation);
    this.mark(conversation);
    const waiting = conversation.pending.value;
    const left = waiting.filter(({ key, message: sent }) => key !== event.key && sent?._id !== message._id);
    if (left.length < waiting.length) conversation.pending.value = left;
    if (!mine) this.arrived.value = { from: message.sender_id, shown: made };
    this.sort();
  }

  private onReceipt({ conversation_id, user_id, type, up_to }: Receipt): void {
    const conversation = this.byId.get(conversation_id);
    if (!conversation) return;
    if (user_id === this.me && type === 'read') raise(conversation.myRead, up_to.seq);
    if (user_id === this.me && !conversation.self) return;
    raise(conversation.theirReceived, up_to.seq);
    if (type === 'read') raise(conversation.theirRead, up_to.seq);
  }

  private onOutgoing(outgoing: Outgoing, discarded: boolean): void {
    const conversation = this.with(outgoing.to);
    const others = conversation.pending.value.filter(({ key }) => key !== outgoing.key);
    const known = others.length < conversation.pending.value.length;
    const arrived = outgoing.message && isThere(conversation, outgoing.message);
    const open = outgoing.state === 'pending' || outgoing.state === 'failed' || (known && outgoing.state === 'sent');
    if (discarded || arrived || !open) {
      if (known) conversation.pending.value = others;
      return;
    }
    // In its old place, as a new list, so that whoever looks at it is told that it has changed.
    conversation.pending.value = known
      ? conversation.pending.value.map((one) => (one.key === outgoing.key ? outgoing : one))
      : [...others, outgoing];
    this.sort();
  }

  /** What is on its way no more, though no event said so: it came with a page. */
  private settle(conversation: Conversation): void {
    const waiting = conversation.pending.value;
    const left = waiting.filter(({ message }) => !message || !isThere(conversation, message));
    if (left.length < waiting.length) conversation.pending.value = left;
  }

  /** Puts a page into the run, or in its place where the two do not meet. */
  private take(conversation: Conversation, messages: readonly Shown[], older?: boolean): void {
    batch(() => {
      if (!conversation.merge(messages)) {
        conversation.clear();
        conversation.merge(messages);
      }
      conversation.opened = true;
      const begins = messages.length === 0 || conversation.messages[0]?.seq === messages[0]?.seq;
      if (older !== undefined && begins) conversation.older.value = older;
      this.settle(conversation);
      this.sort();
    });
  }

  /**
   * The messages around one: a few before it, and what follows. Pages are asked for by `_id`, and `seq` tells only
   * roughly what that is; so it is searched for between the beginning and a message behind it.
   */
  private async pageAround(conversation: Conversation, seq: number, behind: Shown): Promise<Page> {
    let low = { id: 0, seq: 0 };
    let high: { id: number; seq: number } = behind;
    const { before } = FIRST_PAGE;
    for (let probes = 0; seq - low.seq > before && high.id - low.id > 1 && probes < PROBES; probes += 1) {
      const share = probes % 2 === 0 ? (seq - before / 2 - low.seq) / (high.seq - low.seq) : 0.5;
      const guess = Math.min(high.id - 1, Math.max(low.id + 1, Math.round(low.id + (high.id - low.id) * share)));
      const [found] = (await this.page(conversation, { limit: 1, before: guess + 1 })).messages;
      if (found && found.seq >= seq) high = found;
      else low = { id: guess, seq: found?.seq ?? low.seq };
    }
    const messages: Shown[] = [];
    for (let more = true; more && (messages[messages.length - 1]?.seq ?? 0) < seq; ) {
      const page = await this.page(conversation, { limit: PAGE, after: messages[messages.length - 1]?.id ?? low.id });
      messages.push(...page.messages);
      more = page.more && page.messages.length > 0;
    }
    return { messages, more: false };
  }

  /** The newest ones, those before one, or those after one. */
  private async page(conversation: Conversation, range: { limit: number; before?: number; after?: number }): Promise<Page> {
    for await (const page of this.chat.history({ with: conversation.peer, ...range })) {
      const messages = page.messages.map((message) => shown(message));
      return { messages: range.after === undefined ? messages.reverse() : messages, more: page.more };
    }
    return { messages: [], more: false };
  }

  private async load(conversation: Conversation, what: 'first' | 'older' | 'newer', doing: () => Promise<void>): Promise<void> {
    conversation.loading.value = what;
    try {
      await doing();
      conversation.loading.value = 'no';
    } catch {
      conversation.loading.value = 'failed';
    }
  }

  private sort(): void {
    const newest = ({ last, pending }: Conversation) =>
      pending.value.length > 0 ? Number.MAX_SAFE_INTEGER : (last.value?.id ?? 0);
    const listed = [...this.byId.values()].filter((one) => newest(one) > 0 || one.total.value > 0);
    listed.sort((a, b) => newest(b) - newest(a));
    const before = this.conversations.value;
    if (listed.length !== before.length || listed.some((one, at) => one !== before[at])) this.conversations.value = listed;
  }
}

/** Whether it is among what is shown, or will be as soon as the conversation is opened. */
const isThere = (conversation: Conversation, { seq }: Message): boolean => seq <= (conversation.last.value?.seq ?? 0);

function raise(mark: Signal<number>, to: number): void {
  if (to > mark.value) mark.value = to;
}

/** A message in one line. */
export function preview(message: { kind: Shown['kind']; text?: string | undefined; contentType?: string | undefined }): string {
  switch (message.kind) {
    case null:
      return 'Erased';
    case 'picture':
      return 'Picture';
    case 'file':
      return nameOf(message.contentType) ?? 'File';
    case 'text':
      return (message.text ?? '').slice(0, 200).replace(/\s+/g, ' ');
  }
}
