/** The page's state, over a client library that says and gives what a test wants. */
import type { Conversation as Listed, Loaded, Message, Outgoing } from 'chat-system-client';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Model } from './model';

type Handler = (...args: unknown[]) => void;

const chat = vi.hoisted(() => ({
  handlers: new Map<string, Handler[]>(),
  listed: [] as unknown[],
  history: [] as unknown[],
  queue: [] as unknown[],
  /** Messages in a page, whatever was asked for: pages are bounded in bytes too. */
  most: 200,
  asked: 0,
}));

vi.mock('chat-system-client', () => ({
  ChatError: Error,
  connect: () => ({
    status: { state: 'connecting' },
    on: (name: string, handler: Handler) => chat.handlers.set(name, [...(chat.handlers.get(name) ?? []), handler]),
    outgoing: () => chat.queue,
    read: async () => ({}),
    async *conversations({ before = Infinity, limit = 50 }: { before?: number; limit?: number }) {
      void limit;
      const left = (chat.listed as Listed[]).filter(({ last_message }) => last_message && last_message._id < before);
      yield* left.sort((a, b) => b.last_message!._id - a.last_message!._id);
    },
    async *history({ with: peer, limit = 100, before = Infinity, after }: { with: string; limit?: number; before?: number; after?: number }) {
      chat.asked += 1;
      const all = (chat.history as Message[]).filter(
        ({ _id, sender_id, receiver_id }) => [sender_id, receiver_id].includes(peer) && _id < before && _id > (after ?? 0),
      );
      const most = Math.min(limit, chat.most);
      yield { messages: after === undefined ? [...all].reverse().slice(0, most) : all.slice(0, most), more: all.length > most };
    },
    close: async () => undefined,
  }),
}));

const say = (name: string, ...args: unknown[]) => chat.handlers.get(name)?.forEach((handler) => handler(...args));

const message = (peer: string, id: number, seq: number, from = peer): Message => ({
  _id: id,
  conversation_id: ['alice', peer].sort().join(','),
  seq,
  sender_id: from,
  receiver_id: from === 'alice' ? peer : 'alice',
  sent_at: 1_790_000_000,
  received_at: null,
  content_type: 'text/plain',
  text: String(seq),
});

const listed = (last: Message, read = last.seq): Listed => {
  const peer = last.sender_id === 'alice' ? last.receiver_id : last.sender_id;
  const participants = ['alice', peer].map((user_id) => ({ user_id, received_seq: read, read_seq: read }));
  return { conversation_id: last.conversation_id, with: peer, seq: last.seq, unread: last.seq - read, last_message: last, participants };
};

const load = (conversations: Listed[], more: boolean, again = false) =>
  say('loaded', { conversations, more, histories: new Map(), again } satisfies Loaded);

const pending = (key: string, to: string): Outgoing => {
  const sent = new Promise<Message>(() => {});
  return { key, to, text: 'mine', data: undefined, contentType: undefined, createdAt: 0, state: 'pending', sent };
};

let model: Model;
beforeEach(() => {
  vi.stubGlobal('document', { baseURI: 'http://127.0.0.1/' });
  chat.handlers.clear();
  chat.listed = [];
  chat.history = [];
  chat.queue = [];
  chat.most = 200;
  chat.asked = 0;
  model = new Model({ userId: 'alice', token: '', development: false, tokens: async () => '' });
});
afterEach(() => void vi.unstubAllGlobals());

const settled = () => new Promise((resolve) => setTimeout(resolve));
const someone = (n: number) => `peer-${n}`;

/** 60 conversations, of which 50 are listed; the last of them is with peer-60, read up to 499 of 499. */
function sixty(): void {
  const all = Array.from({ length: 60 }, (_, n) => listed(message(someone(n + 1), 10_000 - n, 499)));
  chat.listed = all;
  load(all.slice(0, 50), true);
}

test('what is unread in a conversation beyond the first page is what the server says', async () => {
  sixty();
  const next = message('peer-60', 20_000, 500);
  chat.listed[59] = listed(next, 499);
  say('message', next, { type: 'message.sent' });
  const conversation = model.with('peer-60');
  expect(conversation.unread.value).toBe(0);
  await settled();
  expect(conversation.unread.value).toBe(1);
  expect(model.unread.value).toBe(1);
  expect(model.conversations.value[0]).toBe(conversation);
});

test('it is asked for again where the conversation has gone on meanwhile', async () => {
  sixty();
  const [next, newest] = [message('peer-60', 20_000, 500), message('peer-60', 20_001, 501)];
  chat.listed[59] = listed(newest, 499);
  chat.history = [next, newest];
  say('message', next, { type: 'message.sent' });
  await settled();
  expect(model.with('peer-60').unread.value).toBe(2);
});

test('one that is opened by its name has its marks, and leaves no gap in the list', async () => {
  sixty();
  chat.listed[59] = listed(message('peer-60', 9_941, 499), 497);
  chat.history = [message('peer-60', 9_940, 498), message('peer-60', 9_941, 499)];
  const conversation = model.with('peer-60');
  await model.open(conversation);
  expect(conversation.unread.value).toBe(2);
  expect(conversation.newFrom).toBe(498);
  await model.loadMoreConversations();
  expect(model.conversations.value).toHaveLength(60);
  expect(model.moreConversations.value).toBe(false);
});

test('a message that the first page has already is not on its way, whenever its answer comes', async () => {
  const mine = message('bob', 10, 1, 'alice');
  chat.history = [mine];
  const entry = pending('k', 'bob');
  say('outgoing', entry, false);
  load([listed(mine)], false);
  const conversation = model.with('bob');
  expect(conversation.pending.value).toHaveLength(1);
  // The answer of before was lost with the tab: it is the same one again.
  say('outgoing', Object.assign(entry, { state: 'sent', message: mine }), false);
  expect(conversation.pending.value).toEqual([]);
  await model.open(conversation);
  expect(conversation.messages.map(({ id }) => id)).toEqual([10]);
});

test('nor is one whose event fell into a reset', async () => {
  load([], false);
  const mine = message('bob', 10, 1, 'alice');
  const entry = pending('k', 'bob');
  say('outgoing', entry, false);
  say('outgoing', Object.assign(entry, { state: 'sent', message: mine }), false);
  const conversation = model.with('bob');
  expect(conversation.pending.value).toHaveLength(1);
  load([listed(mine)], false, true);
  expect(conversation.pending.value).toEqual([]);
});

test('nor one that came with a page of history', async () => {
  load([], false);
  const mine = message('bob', 10, 1, 'alice');
  const entry = pending('k', 'bob');
  say('outgoing', entry, false);
  say('outgoing', Object.assign(entry, { state: 'sent', message: mine }), false);
  chat.history = [mine];
  const conversation = model.with('bob');
  await model.open(conversation);
  expect(conversation.messages.map(({ id }) => id)).toEqual([10]);
  expect(conversation.pending.value).toEqual([]);
});

test('a conversation without a last message that can be shown is listed', () => {
  load([{ ...listed(message('bob', 10, 3)), last_message: null }], false);
  expect(model.conversations.value.map(({ peer }) => peer)).toEqual(['bob']);
});

/** `count` messages of bob's, of which alice has read some. */
function unread(count: number, read: number, id: (seq: number) => number): Promise<void> {
  chat.history = Array.from({ length: count }, (_, n) => message('bob', id(n + 1), n + 1));
  load([listed(chat.history[count - 1] as Message, read)], false);
  return model.open(model.with('bob'));
}

const even = (seq: number) => seq * 10;
/** As after a fail-over, and where others write most of the time. */
const uneven = (seq: number) => seq ** 3 + (seq > 3000 ? 1_000_000_000_000 : 0);

test.each([
  ['a few', 30, 20, even, 200],
  ['as many as a page has', 250, 60, even, 200],
  ['more than a page has', 450, 0, even, 200],
  ['more than a page has, after others', 5000, 700, even, 200],
  ['far back in an uneven log', 5000, 700, uneven, 200],
  ['behind a jump of the log', 5000, 3001, uneven, 200],
  ['files, of which few fit in a page', 30, 0, even, 13],
  ['files after others', 300, 150, even, 13],
])('with %s unread it begins at the first of them', async (_, count, read, id, most) => {
  chat.most = most;
  await unread(count, read, id);
  const conversation = model.with('bob');
  const seqs = conversation.messages.map(({ seq }) => seq);
  expect(conversation.loading.value).toBe('no');
  expect(conversation.newFrom).toBe(read + 1);
  expect(seqs).toContain(read + 1);
  expect(seqs).toEqual(seqs.map((_, n) => (seqs[0] ?? 0) + n));
  expect(seqs.length).toBeLessThanOrEqual(300);
  expect(chat.asked).toBeLessThan(40);
  expect(conversation.older.value).toBe(seqs[0] !== 1);
  // And goes on to the newest, which nothing that comes meanwhile is put before.
  const last = message('bob', id(count + 1), count + 1);
  chat.history.push(last);
  say('message', last, { type: 'message.sent' });
  while (conversation.newer) await model.loadNewer(conversation);
  expect(conversation.messages.map(({ seq }) => seq)).toEqual(Array.from({ length: count + 2 - (seqs[0] ?? 0) }, (_, n) => (seqs[0] ?? 0) + n));
});

test('whoever goes to the end, or writes, has the newest, and not all between', async () => {
  await unread(5000, 700, even);
  const conversation = model.with('bob');
  expect(conversation.newer).toBe(true);
  await model.loadNewest(conversation);
  expect(conversation.newer).toBe(false);
  expect(conversation.messages.map(({ seq }) => seq)).toEqual(Array.from({ length: 100 }, (_, n) => 4901 + n));
  await model.loadOlder(conversation);
  expect(conversation.messages[0]?.seq).toBe(4801);
});

test('what cannot be had is tried again a few times, and then when somebody says so', async () => {
  await unread(450, 0, even);
  const conversation = model.with('bob');
  const all = chat.history;
  chat.history = all.slice(0, 100);
  chat.asked = 0;
  await model.loadNewer(conversation);
  expect(conversation.loading.value).toBe('failed');
  expect(chat.asked).toBe(5);
  chat.history = all;
  model.tryAgain();
  await model.loadNewer(conversation);
  expect(conversation.messages).toHaveLength(200);
});
