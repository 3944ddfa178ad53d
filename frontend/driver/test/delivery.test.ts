/** What the application is given: each thing once, in order, whole. */
import { expect, test, vi } from 'vitest';

import { connect } from '../src/index.js';
import { Pump } from '../src/pump.js';
import { observe, scripted, shelf, until } from './support/observed.js';
import { problem, tokenOf } from './support/scripted.js';

test('what there is, then what happens: each message is in the one or in the other', async () => {
  const server = await scripted();
  for (const text of ['one', 'two', 'three']) server.message(text);
  server.message('hello', { conversation_id: 'alice,carol', sender_id: 'carol' });
  // While it loads, more is written: after the cursor was taken, before the page was read.
  let asked = 0;
  server.judge = ({ name }) => {
    asked++;
    if (name === 'history' && asked === 2) server.message('four');
    return undefined;
  };
  const watched = observe(server, { load: { with: ['bob', 'dave'], messages: 2 } });
  await watched.connected();
  server.message('five');
  await watched.gave(['four', 'five']);
  const [loaded] = watched.loaded;
  expect(loaded!.conversations.map(({ with: peer, seq, last_message }) => [peer, seq, last_message?.text])).toEqual([
    ['carol', 1, 'hello'],
    ['bob', 3, 'three'],
  ]);
  expect(loaded!.histories.get('bob')!.messages.map(({ text }) => text)).toEqual(['three']);
  expect(loaded!.histories.get('bob')!.more).toBe(true);
  expect(loaded!.histories.get('dave')).toEqual({ messages: [], more: false });
  expect([loaded!.again, loaded!.more, watched.loaded.length]).toEqual([false, false, 1]);
});

test('a message that the page of conversations has already does not come again', async () => {
  const server = await scripted();
  server.message('one');
  const cursor = server.head;
  // The page is newer than its cursor.
  vi.spyOn(server, 'head', 'get').mockReturnValueOnce(cursor);
  server.message('two');
  const watched = observe(server, { load: true });
  await watched.connected();
  server.message('three');
  await watched.gave(['three']);
  expect(server.begun[0]!.after).toBe(cursor);
  expect(watched.loaded[0]!.conversations[0]!.last_message!.text).toBe('two');
});

test('with `load` no place is kept, which nobody would ever read', async () => {
  const server = await scripted();
  const store = shelf();
  const watched = observe(server, { store, load: true });
  await watched.connected();
  server.message('one');
  await watched.gave(['one']);
  await watched.chat.close();
  expect([...store.values.keys()].filter((key) => key.includes('/cursor/'))).toEqual([]);
});

test('a crash while a reset is dealt with leaves the place, so that the next life is told of it', async () => {
  const server = await scripted();
  server.message('one');
  const store = shelf();
  const before = observe(server, { after: 'e:0', store, transports: ['websocket'] });
  await before.gave(['one']);
  await before.chat.close();
  const kept = () => [...store.values].filter(([key]) => key.includes('/cursor/')).map(([, value]) => JSON.parse(value).cursor);
  expect(kept()).toEqual(['e:1']);
  server.faults.set('websocket', 'reset');
  const watched = observe(server, { store, transports: ['websocket'] });
  let finish!: () => void;
  const held = new Promise<void>((resolve) => (finish = resolve));
  let during: string[] | undefined;
  watched.chat.on('reset', () => {
    during = kept();
    return held;
  });
  await until(() => during !== undefined, 'it is told');
  expect(during).toEqual(['e:1']);
  expect(kept()).toEqual(['e:1']);
  finish();
  await until(() => !kept().includes('e:1'), 'the place is gone once that is done');
});

test('after a reset it loads again, tells that first, and goes on', async () => {
  const server = await scripted();
  server.message('one');
  server.faults.set('websocket', 'reset');
  const watched = observe(server, { load: true });
  const order: string[] = [];
  for (const event of ['loaded', 'reset', 'message'] as const) watched.chat.on(event, () => void order.push(event));
  await until(() => watched.loaded.length === 2, 'it is loaded again');
  server.message('two');
  await watched.gave(['two']);
  expect(watched.loaded.map(({ again }) => again)).toEqual([false, true]);
  expect(order).toEqual(['loaded', 'reset', 'loaded', 'message']);
});

test('it loads as often as it takes', async () => {
  const server = await scripted();
  let refusals = 0;
  server.judge = () => (refusals++ < 3 ? problem('unavailable', 503, { retry_after: 0.01 }) : undefined);
  const watched = observe(server, { load: true });
  await watched.connected();
  expect([watched.loaded.length, refusals]).toEqual([1, 4]);
  watched.chat.reload();
  await until(() => watched.loaded.length === 2, 'it is loaded again');
  expect(watched.loaded[1]!.again).toBe(true);
});

test('a hole in seq is filled from history, in its place', async () => {
  const server = await scripted();
  for (let index = 1; index <= 250; index++) server.message(`${index}`);
  // The stream lies: a chain that is whole, and messages that are missing.
  const whole = [...server.log];
  server.log.splice(0, server.log.length, whole[0]!, whole[249]!);
  let wrong = 0;
  server.judge = ({ name }) => {
    if (name !== 'history') return undefined;
    server.log.splice(0, server.log.length, ...whole);
    return wrong++ === 0 ? problem('unavailable', 503, { retry_after: 0.01 }) : undefined;
  };
  server.cursorOf(1);
  const watched = observe(server, { after: 'e:0', transports: ['long-poll'] });
  await watched.gave(whole.map(({ message }) => message!.text!));
  expect(watched.errors).toEqual([]);
});

test('a hole that history has too is told, and does not stop anything', async () => {
  const server = await scripted();
  server.message('one');
  server.message('four', { seq: 4 });
  server.message('five', { seq: 5 });
  const watched = observe(server, { after: 'e:0' });
  await watched.gave(['one', 'four', 'five']);
  expect(watched.errors.map(({ code }) => code)).toEqual(['seq_hole']);
});

test('an event at or below the last position is not given again, and moves no cursor, whatever brings it', async () => {
  const given: number[] = [];
  const reached: string[] = [];
  const pump = new Pump({
    message: (message) => void given.push(message._id),
    other: (event) => void given.push(event.position),
    lost: () => {},
    between: async () => [],
    reached: ({ cursor }) => void reached.push(cursor),
    error: () => {},
  });
  pump.begin({ position: 3 });
  const event = (position: number) => ({ position, cursor: `e:${position}`, prev: '', type: 'x', conversation_id: 'a,b', actor_id: 'a', occurred_at: '' });
  for (const position of [1, 3, 4, 5, 4, 5, 6]) pump.push({ kind: 'event', event: event(position), cursor: `e:${position}` });
  await until(() => reached.at(-1) === 'e:6', 'the last one is given');
  expect(given).toEqual([4, 5, 6]);
  expect(reached).toEqual(['e:3', 'e:4', 'e:5', 'e:5', 'e:6']);
});

test('the place is kept after the handlers are done, and it goes on from there in the next life', async () => {
  const server = await scripted();
  const store = shelf();
  for (const text of ['one', 'two', 'three']) server.message(text);
  const first = observe(server, { after: 'e:0', store });
  let hold!: () => void;
  first.chat.on('message', ({ text }) => (text === 'two' ? new Promise<void>((resolve) => (hold = resolve)) : undefined));
  await until(() => hold !== undefined, 'the second one is being dealt with');
  const kept = () => [...store.values].filter(([key]) => key.includes('/cursor/')).map(([, value]) => JSON.parse(value).cursor);
  await until(() => kept()[0] === 'e:1', 'the first one is kept');
  // As if the process ended here: the store stays as it is.
  const values = new Map(store.values);
  await first.chat.close();
  store.values.clear();
  for (const [key, value] of values) store.values.set(key, value);
  const second = observe(server, { after: 'e:0', store });
  await second.gave(['two', 'three']);
  await until(() => kept()[0] === 'e:3', 'the last one is kept');
  await second.chat.close();
  const third = observe(server, { store });
  await third.connected();
  server.message('four');
  await third.gave(['four']);
});

test('a handler that throws is told, and hides nothing', async () => {
  const server = await scripted();
  const watched = observe(server, { after: 'e:0' });
  watched.chat.on('message', ({ text }) => {
    if (text === 'one') throw new Error('mine');
  });
  watched.chat.on('message', async ({ text }) => {
    if (text === 'two') throw new Error('mine too');
  });
  const gone = watched.chat.on('message', () => void heard++);
  let heard = 0;
  for (const text of ['one', 'two']) server.message(text);
  await watched.gave(['one', 'two']);
  await until(() => watched.errors.length === 2, 'both are told');
  expect(watched.errors.map(({ code, cause }) => [code, (cause as Error).message])).toEqual([
    ['handler', 'mine'],
    ['handler', 'mine too'],
  ]);
  gone();
  server.message('three');
  await watched.gave(['one', 'two', 'three']);
  expect(heard).toBe(2);
});

test('receipts come as events, once', async () => {
  const server = await scripted();
  server.message('one');
  server.record({ type: 'receipt.received', up_to: { _id: 1, seq: 1 } });
  server.record({ type: 'receipt.read', up_to: { _id: 1, seq: 1 } });
  const watched = observe(server, { after: 'e:0' });
  await until(() => watched.receipts.length === 2, 'both come');
  const receipt = { conversation_id: 'alice,bob', user_id: 'bob', up_to: { _id: 1, seq: 1 } };
  expect(watched.receipts).toEqual([
    { type: 'received', ...receipt },
    { type: 'read', ...receipt },
  ]);
});

test('it says received by itself, for the messages of others, once they were given', async () => {
  const server = await scripted();
  server.message('before');
  const watched = observe(server, { load: true, autoReceived: true });
  await until(() => server.log.some(({ type }) => type === 'receipt.received'), 'what was loaded is received');
  await watched.connected();
  await watched.chat.send({ to: 'bob', text: 'mine' }).sent;
  server.message('one');
  await until(() => server.log.at(-1)!.type === 'receipt.received', 'what came is received');
  expect(server.log.filter(({ type }) => type === 'receipt.received').map(({ up_to }) => up_to!.seq)).toEqual([1, 3]);
});

test('history goes back and forth page by page, conversations one by one', async () => {
  const server = await scripted();
  for (let index = 1; index <= 5; index++) server.message(`${index}`);
  for (const peer of ['carol', 'dave']) server.message(peer, { conversation_id: `alice,${peer}`, sender_id: peer });
  const { chat } = observe(server);
  const pages: [(string | undefined)[], boolean][] = [];
  for await (const { messages, more } of chat.history({ with: 'bob', limit: 2 })) pages.push([messages.map(({ text }) => text), more]);
  expect(pages).toEqual([
    [['5', '4'], true],
    [['3', '2'], true],
    [['1'], false],
  ]);
  const before = (await chat.history({ with: 'bob', before: 3, limit: 9 }).next()).value!;
  expect(before.messages.map(({ text }) => text)).toEqual(['2', '1']);
  const forward: [(string | undefined)[], boolean][] = [];
  for await (const { messages, more } of chat.history({ with: 'bob', after: 1, limit: 2 })) forward.push([messages.map(({ text }) => text), more]);
  expect(forward).toEqual([
    [['2', '3'], true],
    [['4', '5'], false],
  ]);
  const peers: (string | null)[] = [];
  for await (const { with: peer } of chat.conversations({ limit: 1 })) peers.push(peer);
  expect(peers).toEqual(['dave', 'carol', 'bob']);
});

test('what is asked for is refused with its code, and a broken link is no reason', async () => {
  const server = await scripted();
  server.message('one');
  const watched = observe(server);
  await watched.connected();
  server.judge = () => problem('user_id_invalid', 400, { errors: [{ parameter: 'with', detail: 'no' }] });
  await expect(watched.chat.history({ with: '?' }).next()).rejects.toMatchObject({
    code: 'user_id_invalid',
    status: 400,
    problem: { errors: [{ parameter: 'with', detail: 'no' }] },
  });
  server.judge = ({ over }) => {
    if (over === 'rest') return undefined;
    server.cut();
    return 'hang';
  };
  const page = (await watched.chat.history({ with: 'bob' }).next()).value!;
  expect(page.messages.map(({ text }) => text)).toEqual(['one']);
});

test('whose chat it is: by the token, by the server, or by nobody', async () => {
  const server = await scripted();
  const named = connect({ url: server.url, token: tokenOf('alice') });
  expect(named.userId).toBe('alice');
  await named.close();
  const fetched = observe(server, { token: async () => tokenOf('alice') });
  expect(fetched.chat.userId).toBeUndefined();
  await fetched.connected();
  expect(fetched.chat.userId).toBe('alice');
  const opaque = observe(server, { token: 'opaque' });
  await until(() => opaque.chat.status.state === 'failed', 'it cannot be kept for anybody');
  expect(opaque.errors.map(({ code }) => code)).toEqual(['user_unknown']);
  const told = observe(server, { token: 'opaque', userId: 'alice' });
  await told.connected();
});
