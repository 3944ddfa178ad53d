/** Against the real server: what a network does to it, and what is left of that for the application. */
import { expect, test } from 'vitest';

import type { ConnectOptions, Transport } from '../src/index.js';
import { TRANSPORTS } from '../src/ladder.js';
import { observe, shelf, until, type Observed } from './support/observed.js';
import { Proxy, type Rules } from './support/proxy.js';
import { Real, tokenFor } from './support/real.js';

const PATIENT = { ready: 3000, answer: 5000, silence: 3000, poll: 2000 };

function user(server: { url: string }, name: string, options: Partial<ConnectOptions> = {}): Observed {
  const { timing, ...others } = options;
  return observe(server, { token: tokenFor(name), ...others, timing: { ...PATIENT, ...timing } });
}

/** Every message of the conversation once, in one order, the same for both, and each sender's own in the order of writing. */
function expectWhole(watched: Observed[], written: string[]): void {
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
  const [alice, bob] = ['alice', 'bob'].map((name) => user(server, name, { after: '0', transports: [rung] }));
  await Promise.all([alice!.connected(), bob!.connected()]);
  const written: string[] = [];
  const write = () => {
    const index = written.length;
    const [sender, to] = index % 2 ? [bob!, 'alice'] : [alice!, 'bob'];
    const text = `${to === 'bob' ? 'alice' : 'bob'} ${index}`;
    written.push(text);
    sender.chat.send({ to, text });
  };
  const writing = setInterval(write, 2);
  for (let kills = 0; kills < 3; kills++) {
    const there = alice!.messages.length;
    await until(() => alice!.messages.length > there + 10 && bob!.messages.length > there + 10, 'they talk');
    await server.kill();
    const more = written.length + 10;
    await until(() => written.length > more, 'they write on');
    await server.begin();
  }
  clearInterval(writing);
  const both = [alice!, bob!];
  await until(() => both.every(({ messages }) => messages.length >= written.length), 'all came', 40_000);
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

test('500 messages while one was away: all there, once, in order, and counted', async () => {
  const server = await Real.start();
  const store = shelf();
  const before = user(server, 'bob', { store, after: '0' });
  const alice = user(server, 'alice');
  await alice.chat.send({ to: 'bob', text: 'before' }).sent;
  await before.gave(['before']);
  await before.chat.read(before.messages[0]!);
  await before.chat.close();

  const texts = Array.from({ length: 500 }, (_, index) => `${index}`);
  await Promise.all(texts.map((text) => alice.chat.send({ to: 'bob', text }).sent));
  const bob = user(server, 'bob', { store });
  const page = user(server, 'bob', { load: { with: ['alice'], messages: 200 } });
  await bob.gave(texts);
  await page.connected();
  const [conversation] = page.loaded[0]!.conversations;
  expect([conversation!.with, conversation!.seq, conversation!.unread]).toEqual(['alice', 501, 500]);
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

test.each(NETWORKS)('where %s', async (_, rules, rung) => {
  const server = await Real.start();
  const proxy = await Proxy.before(server, rules);
  const alice = user(proxy, 'alice', { after: '0', timing: { ready: 1500, climb: 50, climbMax: 200 } });
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
  while (alice.chat.status.transport !== 'websocket' || texts.length < 20) {
    texts.push(`${texts.length}`);
    await bob.chat.send({ to: 'alice', text: texts.at(-1)! }).sent;
    if (texts.length > 5000) throw new Error('it does not climb');
  }
  await until(() => alice.messages.length >= texts.length + 2, 'all came');
  expect(alice.texts.slice(1)).toEqual(['hi', ...texts]);
  expect(alice.errors).toEqual([]);
});

test('blocked step by step and unblocked, while two write: nothing is lost, nothing doubled', async () => {
  const server = await Real.start();
  const proxy = await Proxy.before(server);
  const options = { after: '0', timing: { ready: 1000, silence: 800, climb: 50, climbMax: 100, poll: 1000 } };
  const [alice, bob] = [user(proxy, 'alice', options), user(proxy, 'bob', options)];
  const both = [alice, bob];
  await Promise.all(both.map((each) => each.connected()));
  const written: string[] = [];
  const writing = setInterval(() => {
    const [sender, name, to] = written.length % 2 ? ([bob, 'bob', 'alice'] as const) : ([alice, 'alice', 'bob'] as const);
    written.push(`${name} ${written.length}`);
    sender.chat.send({ to, text: written.at(-1)! });
  }, 10);
  for (const [, rules, rung] of [...NETWORKS, NETWORKS[0]!]) {
    proxy.rules = rules;
    proxy.cut();
    await until(() => both.every(({ chat }) => chat.status.transport === rung && chat.status.state === 'connected'), `both are at ${rung}`, 40_000);
  }
  clearInterval(writing);
  await until(() => both.every(({ messages }) => messages.length >= written.length), 'all came', 40_000);
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
