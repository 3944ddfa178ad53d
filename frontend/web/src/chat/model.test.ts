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
    async *history({ with: peer, limit = 100 }: { with: string; limit?: number }) {
      const all = (chat.history as Message[]).filter(({ sender_id, receiver_id }) => [sender_id, receiver_id].includes(peer));
      yield { messages: [...all].reverse().slice(0, limit), more: all.length > limit };
    },
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
