/** Against the real server: what a network does to it, and what is left of that for the application. */
import { expect, test } from 'vitest';

import type { ConnectOptions, Transport } from '../src/index.js';
import { TRANSPORTS } from '../src/ladder.js';
import { atEnd, observe, shelf, until, type Observed } from './support/observed.js';
import { Proxy, type Rules } from './support/proxy.js';
import { Real, tokenFor } from './support/real.js';
import { sized } from './support/sized.js';

const PATIENT = { ready: 8000, answer: 5000, silence: 5000, poll: 2000 };
/** Messages that are sent while somebody is away. */
const MANY = sized(100, 500);
/** Messages that may be on their way at once. */
const MOST = sized(100, Infinity);

function user(server: { url: string }, name: string, options: Partial<ConnectOptions> = {}): Observed {
  const { timing, ...others } = options;
  return observe(server, { token: tokenFor(name), ...others, timing: { ...PATIENT, ...timing } });
}

/** Both write in turn, each `pause` milliseconds, unless `MOST` are on their way: on a slow machine it would be ever more. */
function writers(alice: Observed, bob: Observed, pause: number): { written: string[]; write(): void; stop(): void } {
  const written: string[] = [];
  const write = () => {
    const [sender, name, to] = written.length % 2 ? ([bob, 'bob', 'alice'] as const) : ([alice, 'alice', 'bob'] as const);
    written.push(`${name} ${written.length}`);
    sender.chat.send({ to, text: written.at(-1)! });
  };
  const writing = setInterval(() => written.length - alice.messages.length < MOST && write(), pause);
  const stop = () => clearInterval(writing);
  atEnd(async () => stop());
  return { written, write, stop };
}

/** Every message of the conversation once, in one order, the same for both, and each sender's own in the order of writing. */
function expectWhole(watched: readonly Observed[], written: string[]): void {
  for (const { messages, errors } of watched) {
    expect(messages.map(({ seq }) => seq)).toEqual(written.map((_, index) => index + 1));
    expect(messages.map(({ text }) => text).sort()).toEqual([...written].sort());
    for (const sender of ['alice', 'bob']) {
      const own = messages.filter(({ sender_id }) => sender_id === sender).map(({ text }) => text);
      expect(own).toEqual(written.filter((text) => text.startsWith(sender)));
    }
    expect(errors).toEqual([]);
  }
}

test.each(TRANSPORTS)('killed and started again while two write: nothing is lost, nothing doubled, over %s', async (rung) => {
  const server = await Real.start();
  const both = [user(server, 'alice', { after: '0', transports: [rung] }), user(server, 'bob', { after: '0', transports: [rung] })] as const;
  await Promise.all(both.map((each) => each.connected()));
  const { written, write, stop } = writers(...both, 2);
  for (let kills = 0; kills < 3; kills++) {
    const there = both[0].messages.length;
    await until(() => both.every(({ messages }) => messages.length > there + 10), 'they talk');
    await server.kill();
    // They write on.
    for (let more = 0; more <= 10; more++) write();
    await server.begin();
  }
  stop();
  await until(() => both.every(({ messages }) => messages.length >= written.length), 'all came');
  expectWhole(both, written);
  expect(both.map(({ chat }) => chat.outgoing())).toEqual([[], []]);
});

test.each(['websocket', 'polling'] as const)('a server that loses every fourth thing on its way is followed all the same, over %s', async (rung) => {
  const server = await Real.start({ loses: 4 });
  const [alice, bob] = ['alice', 'bob'].map((name) => user(server, name, { after: '0', transports: [rung] }));
  const written = Array.from({ length: 60 }, (_, index) => `${index % 2 ? 'bob' : 'alice'} ${index}`);
  for (const [index, text] of written.entries()) await (index % 2 ? bob! : alice!).chat.send({ to: index % 2 ? 'alice' : 'bob', text }).sent;
  const both = [alice!, bob!];
  await until(() => both.every(({ messages }) => messages.length >= written.length), 'all came');
  expectWhole(both, written);
});

test('many messages while one was away: all there, once, in order, and counted', async () => {
  const server = await Real.start();
  const store = shelf();
  const before = user(server, 'bob', { store, after: '0' });
  const alice = user(server, 'alice');
  await alice.chat.send({ to: 'bob', text: 'before' }).sent;
  await before.gave(['before']);
  await before.chat.read(before.messages[0]!);
  await before.chat.close();

  const texts = Array.from({ length: MANY }, (_, index) => `${index}`);
  await Promise.all(texts.map((text) => alice.chat.send({ to: 'bob', text }).sent));
  const bob = user(server, 'bob', { store });
  const page = user(server, 'bob', { load: { with: ['alice'], messages: (MANY * 2) / 5 } });
  await bob.gave(texts);
  await page.connected();
  const [conversation] = page.loaded[0]!.conversations;
  expect([conversation!.with, conversation!.seq, conversation!.unread]).toEqual(['alice', MANY + 1, MANY]);
  const there = page.loaded[0]!.histories.get('alice')!.messages;
  for await (const { messages } of page.chat.history({ with: 'alice', before: there.at(-1)!._id })) there.push(...messages);
  expect(there.map(({ text }) => text).reverse()).toEqual(['before', ...texts]);
});

const NETWORKS: [string, Rules, Transport][] = [
  ['everything passes', {}, 'websocket'],
  ['websockets are refused', { websocket: 'refused' }, 'polling'],
  ['websockets are swallowed', { websocket: 'swallowed' }, 'polling'],
  ['socket.io is blocked', { socketIo: 'refused' }, 'sse'],
  ['socket.io is blocked, and 64 kB are held back', { socketIo: 'refused', holdsBack: 64 << 10 }, 'long-poll'],
];

// Beside each other: two of them wait for a limit.
test.concurrent.each(NETWORKS)('where %s', async (_, rules, rung) => {
  const server = await Real.start();
  const proxy = await Proxy.before(server, rules);
  const alice = user(proxy, 'alice', { after: '0', timing: { climb: 50, climbMax: 200 } });
  const bob = user(server, 'bob', { after: '0', autoReceived: true });
  await alice.connected();
  expect(alice.chat.status.transport).toBe(rung);
  const bytes = Uint8Array.from({ length: 40_000 }, (_, index) => index % 251);
  const sent = await alice.chat.send({ to: 'bob', data: bytes, contentType: 'image/png' }).sent;
  await bob.chat.send({ to: 'alice', text: 'hi' }).sent;
  await until(() => alice.messages.length === 2 && bob.messages.length === 2, 'both came');
  for (const { messages } of [alice, bob]) {
    expect(Buffer.compare(messages[0]!.data!, bytes)).toBe(0);
    expect(messages[1]!.text).toBe('hi');
  }
  await until(() => alice.chat.stateOf(sent) === 'read', 'it is read, for it was answered');

  // Unblocked, it goes back up, and loses nothing on the way.
  proxy.rules = {};
  const texts: string[] = [];
  const climbs = async () => {
    texts.push(`${texts.length}`);
    await bob.chat.send({ to: 'alice', text: texts.at(-1)! }).sent;
    return alice.chat.status.transport === 'websocket' && texts.length >= 20;
  };
  await until(climbs, 'it climbs');
  await until(() => alice.messages.length >= texts.length + 2, 'all came');
  expect(alice.texts.slice(1)).toEqual(['hi', ...texts]);
  expect(alice.errors).toEqual([]);
});

test('blocked step by step and unblocked, while two write: nothing is lost, nothing doubled', async () => {
  const server = await Real.start();
  const proxy = await Proxy.before(server);
  const options = { after: '0', timing: { ready: 3000, silence: 3000, climb: 50, climbMax: 100, poll: 1000 } };
  const both = [user(proxy, 'alice', options), user(proxy, 'bob', options)] as const;
  await Promise.all(both.map((each) => each.connected()));
  const { written, stop } = writers(...both, 10);
  for (const [, rules, rung] of [...NETWORKS, NETWORKS[0]!]) {
    proxy.rules = rules;
    proxy.cut();
    await until(() => both.every(({ chat }) => chat.status.transport === rung && chat.status.state === 'connected'), `both are at ${rung}`);
  }
  stop();
  await until(() => both.every(({ messages }) => messages.length >= written.length), 'all came');
  expectWhole(both, written);
});

test.each(['websocket', 'polling', 'sse'] as const)('a token that ends is renewed before, over %s', async (rung) => {
  const server = await Real.start();
  let fetched = 0;
  // A minute ahead the server says so: after about a second.
  const token = () => tokenFor('alice', fetched++ === 0 ? 61 : 3600);
  const alice = user(server, 'alice', { token, transports: [rung] });
  await alice.connected();
  await until(() => fetched === 2, 'it has fetched another one');
  await alice.chat.send({ to: 'alice', text: 'a note' }).sent;
  await alice.gave(['a note']);
  expect(alice.statuses.filter(({ state }) => state !== 'connecting' && state !== 'connected')).toEqual([]);
});

test.each(TRANSPORTS)('an old token is replaced once, a bad one is refused, over %s', async (rung) => {
  const server = await Real.start();
  let fetched = 0;
  const old = user(server, 'alice', { token: () => tokenFor('alice', fetched++ === 0 ? -60 : 3600), transports: [rung] });
  await old.connected();
  expect(fetched).toBe(2);
  const bad = user(server, 'alice', { token: `${tokenFor('alice')}x`, transports: [rung] });
  await until(() => bad.chat.status.state === 'failed', 'it failed');
  expect(bad.errors.map(({ code, status }) => [code, status])).toEqual([['token_invalid', 401]]);
});

test.each(TRANSPORTS)('a cursor from elsewhere is told to be lost, over %s', async (rung) => {
  const server = await Real.start();
  const alice = user(server, 'alice', { after: 'elsewhere:77', transports: [rung], load: false });
  await alice.connected();
  await until(() => alice.resets.length === 1, 'it says so');
  expect(alice.resets[0]!.reason).toBe('other_epoch');
  await alice.chat.send({ to: 'alice', text: 'a note' }).sent;
  await alice.gave(['a note']);
});

test('what the server refuses for good fails alone', async () => {
  const server = await Real.start();
  const alice = user(server, 'alice', { after: '0' });
  const drafts = [{ to: 'not a user', text: 'x' }, { to: 'bob', text: '' }, { to: 'bob', text: 'x'.repeat(300_000) }, { to: 'bob', data: new Uint8Array(3_000_000) }, { to: 'bob', text: 'fine' }];
  const results = await Promise.allSettled(drafts.map((draft) => alice.chat.send(draft).sent));
  expect(results.map((result) => (result.status === 'fulfilled' ? 'sent' : result.reason.code))).toEqual([
    'user_id_invalid',
    'content_empty',
    'content_too_large',
    'body_too_large',
    'sent',
  ]);
  await alice.gave(['fine']);
});
