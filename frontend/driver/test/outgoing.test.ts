/** The queue: order, keys, refusals, and what outlives a reload. */
import { expect, test, vi } from 'vitest';

import { TRANSPORTS } from '../src/ladder.js';
import { observe, scripted, shelf, until } from './support/observed.js';
import type { ChatError, Transport } from '../src/index.js';
import { problem, tokenOf, type Asked, type Recorded, type Verdict } from './support/scripted.js';

const text = ({ payload }: Asked) => payload['text'];

test.each(TRANSPORTS)('what is written offline goes out in order, each once, over %s', async (rung) => {
  const server = await scripted();
  server.faults.set(rung, 'refused');
  const watched = observe(server, { after: 'e:0', transports: [rung] });
  const texts = Array.from({ length: 20 }, (_, index) => `${index}`);
  const sent = texts.map((text) => watched.chat.send({ to: 'bob', text }));
  expect(watched.chat.outgoing().map(({ text, state }) => [text, state])).toEqual(texts.map((text) => [text, 'pending']));
  await until(() => watched.chat.status.state === 'waiting', 'it waits');
  server.faults.clear();
  const messages = await Promise.all(sent.map((entry) => entry.sent));
  expect(messages.map(({ text }) => text)).toEqual(texts);
  expect(server.log.map(({ message }) => message?.text)).toEqual(texts);
  await watched.gave(texts);
  expect(watched.chat.outgoing()).toEqual([]);
  expect(new Set(server.log.map(({ key }) => key))).toEqual(new Set(sent.map(({ key }) => key)));
});

test.each(TRANSPORTS)('an answer that is lost is asked for again with the same key, over %s', async (rung) => {
  const server = await scripted();
  let lost = 0;
  server.judge = ({ name }) => (name === 'send' && lost++ === 0 ? 'lose' : undefined);
  // From now: its own event does not come to tell, before there is an answer.
  const watched = observe(server, { transports: [rung], timing: { answer: 1000 } });
  await watched.connected();
  const one = watched.chat.send({ to: 'bob', text: 'one' });
  const two = watched.chat.send({ to: 'bob', text: 'two' });
  await Promise.all([one.sent, two.sent]);
  await watched.gave(['one', 'two']);
  expect(server.log.map(({ message }) => message?.text)).toEqual(['one', 'two']);
  const keys = server.commands.map(({ payload }) => payload['key']);
  expect(new Set(keys)).toEqual(new Set([one.key, two.key]));
});

test('its own event answers a send whose answer does not come', async () => {
  const server = await scripted();
  server.judge = ({ name }) => (name === 'send' ? 'lose' : undefined);
  const watched = observe(server, { timing: { answer: 600_000 } });
  await watched.connected();
  const entry = watched.chat.send({ to: 'bob', text: 'one' });
  expect((await entry.sent).seq).toBe(1);
  expect(entry.state).toBe('sent');
});

test('a refusal for good fails that message, and the queue goes on', async () => {
  const server = await scripted();
  server.judge = (asked) =>
    text(asked) === 'too large' ? problem('content_too_large', 413, { detail: 'the limit is 3', request_id: 'r1' }) : undefined;
  const watched = observe(server);
  const [before, bad, after] = ['before', 'too large', 'after'].map((text) => watched.chat.send({ to: 'bob', text }));
  await expect(bad!.sent).rejects.toMatchObject({ name: 'ChatError', code: 'content_too_large', status: 413, message: 'the limit is 3' });
  await Promise.all([before!.sent, after!.sent]);
  expect([before, bad, after].map((entry) => entry!.state)).toEqual(['sent', 'failed', 'sent']);
  expect(watched.chat.outgoing()).toEqual([bad]);
  expect(bad!.error?.problem?.request_id).toBe('r1');
  // Once the server takes it, it can be sent again: under its key, at the end.
  server.judge = () => undefined;
  watched.chat.retry(bad!.key);
  expect(bad!.state).toBe('pending');
  await bad!.sent;
  expect(server.log.map(({ message }) => message?.text)).toEqual(['before', 'after', 'too large']);
});

test('a conversation too many fails that message alone, with the seconds to wait, and those that are there go on', async () => {
  const server = await scripted();
  server.judge = (asked) => (text(asked) === 'new' ? problem('too_many_conversations', 429, { retry_after: 1800 }) : undefined);
  const { chat } = observe(server);
  const [before, begins, after] = ['before', 'new', 'after'].map((text) => chat.send({ to: 'bob', text }));
  await expect(begins!.sent).rejects.toMatchObject({ code: 'too_many_conversations', status: 429, retryAfter: 1800 });
  await Promise.all([before!.sent, after!.sent]);
  expect(chat.outgoing()).toEqual([begins]);
});

test.each([
  ['rate_limited', 429],
  ['overloaded', 503],
  ['outcome_unknown', 503],
])('%s waits as long as it is told to, and nothing overtakes', async (code, status) => {
  const server = await scripted();
  const seen: [unknown, number][] = [];
  server.judge = (asked) => {
    seen.push([text(asked), Date.now()]);
    // A little more than is asserted: a timer may be a millisecond early by this clock.
    return seen.length < 3 ? problem(code, status, { retry_after: 0.105 }) : undefined;
  };
  const watched = observe(server);
  const entries = ['one', 'two'].map((text) => watched.chat.send({ to: 'bob', text }));
  await Promise.all(entries.map(({ sent }) => sent));
  expect(seen.map(([text]) => text)).toEqual(['one', 'one', 'one', 'two']);
  expect(seen[1]![1] - seen[0]![1]).toBeGreaterThanOrEqual(100);
  expect(seen[2]![1] - seen[1]![1]).toBeGreaterThanOrEqual(100);
});

test('a message that breaks the link each time is refused in so many words by REST, and does not stop the others', async () => {
  const server = await scripted();
  server.judge = (asked) => {
    if (text(asked) !== 'poison') return undefined;
    if (asked.over === 'rest') return problem('body_too_large', 413);
    server.cut();
    return 'hang';
  };
  const watched = observe(server);
  const poison = watched.chat.send({ to: 'bob', text: 'poison' });
  const after = watched.chat.send({ to: 'bob', text: 'after' });
  await expect(poison.sent).rejects.toMatchObject({ code: 'body_too_large' });
  await after.sent;
});

test('a message that a proxy refuses each time fails after a while, and does not stop the others', async () => {
  const server = await scripted();
  let refused = 0;
  const proxied: typeof fetch = (url, init) => {
    if (!String(init?.body).includes('poison')) return fetch(url, init);
    refused++;
    return Promise.resolve(new Response('<h1>Forbidden</h1>', { status: 403 }));
  };
  const watched = observe(server, { transports: ['sse'], fetch: proxied });
  const poison = watched.chat.send({ to: 'bob', text: 'poison' });
  const after = watched.chat.send({ to: 'bob', text: 'after' });
  await expect(poison.sent).rejects.toMatchObject({ code: 'answer_invalid', status: 403 });
  await after.sent;
  expect(refused).toBeGreaterThan(2);
  expect(watched.chat.discard(poison.key)).toBe(true);
});

/** What becomes of one message of three, each time that it is sent, by whatever carries it. */
const POISONS: [string, Transport, (init: RequestInit | undefined) => Response | undefined, Verdict][] = [
  ['500 of the server', 'websocket', () => undefined, problem('internal', 500)],
  ['500 of the server', 'sse', () => undefined, problem('internal', 500)],
  ['503 of the server', 'websocket', () => undefined, problem('overloaded', 503, { retry_after: 0 })],
  ['429 of the server', 'sse', () => undefined, problem('rate_limited', 429, { retry_after: 0 })],
  ['401 of the server', 'sse', () => undefined, problem('token_invalid', 401)],
  ['500 of a proxy', 'sse', () => new Response('<h1>Error</h1>', { status: 500 }), undefined],
  ['502 of a proxy', 'sse', () => new Response('<h1>Bad Gateway</h1>', { status: 502 }), undefined],
  ['502 of a proxy', 'long-poll', () => new Response('<h1>Bad Gateway</h1>', { status: 502 }), undefined],
  ['401 of a proxy', 'long-poll', () => new Response('<h1>Unauthorized</h1>', { status: 401 }), undefined],
  ['403 of a proxy', 'long-poll', () => new Response('<h1>Forbidden</h1>', { status: 403 }), undefined],
  ['200 of a proxy, without a message', 'sse', () => new Response('<h1>Welcome</h1>'), undefined],
];

test.each(POISONS)('a message that always gets %s fails alone after a bounded number of tries, and those behind it go on, over %s', async (_, rung, proxied, verdict) => {
  const server = await scripted();
  let tried = 0;
  server.judge = (asked) => (text(asked) === 'poison' ? (tried++, verdict) : undefined);
  const proxy: typeof fetch = async (url, init) => {
    const answer = String(init?.body).includes('poison') ? proxied(init) : undefined;
    if (answer) tried++;
    return answer ?? fetch(url, init);
  };
  const watched = observe(server, { transports: [rung], fetch: proxy });
  const [before, poison, ...after] = ['before', 'poison', 'after', 'later'].map((text) => watched.chat.send({ to: 'bob', text }));
  const reason = await poison!.sent.catch((error: ChatError) => error);
  expect(reason).toMatchObject({ name: 'ChatError' });
  expect(poison!.error).toBe(reason);
  await Promise.all([before!, ...after].map(({ sent }) => sent));
  expect(server.log.map(({ message }) => message?.text)).toEqual(['before', 'after', 'later']);
  expect(tried).toBeGreaterThanOrEqual(10);
  expect(tried).toBeLessThanOrEqual(50);
  // It is not gone: whoever wants to may try it again.
  expect(watched.chat.outgoing()).toEqual([poison]);
  watched.chat.retry(poison!.key);
  expect(poison!.state).toBe('pending');
});

test('a message whose body breaks polling each time is refused in so many words by REST, however often the connection comes back between', async () => {
  const server = await scripted();
  server.judge = (asked) => {
    if (text(asked) !== 'poison') return undefined;
    server.cut();
    return 'hang';
  };
  let refused = 0;
  const proxy: typeof fetch = async (url, init) => {
    if (!String(init?.body).includes('poison')) return fetch(url, init);
    refused++;
    return new Response('<h1>Forbidden</h1>', { status: 403 });
  };
  const watched = observe(server, { transports: ['polling'], fetch: proxy, timing: { stable: 1 } });
  const poison = watched.chat.send({ to: 'bob', text: 'poison' });
  const after = watched.chat.send({ to: 'bob', text: 'after' });
  await expect(poison.sent).rejects.toMatchObject({ code: 'answer_invalid', status: 403 });
  await after.sent;
  expect(refused).toBe(10);
});

test('a message that ends the connection each time it is tried, with no answer anywhere, does not stop the others for ever', async () => {
  const server = await scripted();
  let tried = 0;
  server.judge = (asked) => {
    if (text(asked) !== 'poison') return undefined;
    tried++;
    server.cut();
    return 'hang';
  };
  const watched = observe(server, { transports: ['websocket'], timing: { stable: 0 } });
  const poison = watched.chat.send({ to: 'bob', text: 'poison' });
  const after = watched.chat.send({ to: 'bob', text: 'after' });
  await expect(poison.sent).rejects.toMatchObject({ code: 'network' });
  await after.sent;
  expect(tried).toBeLessThanOrEqual(52);
});

test('a network that is away costs a message no tries, however often', async () => {
  const server = await scripted();
  server.heartbeat = 300;
  // The stream does not know it yet, and says nothing.
  server.faults.set('sse', 'silent');
  let tried = 0;
  const away: typeof fetch = async (url, init) => {
    if (init?.method !== 'POST') return fetch(url, init);
    tried++;
    throw new TypeError('fetch failed');
  };
  const watched = observe(server, { transports: ['sse'], fetch: away, timing: { retry: 1, retryMax: 2 } });
  const one = watched.chat.send({ to: 'bob', text: 'one' });
  await until(() => tried > 60, 'it is tried');
  expect(one.state).toBe('pending');
});

test('a mark that always gets 500 is given up, told, and does not stop the others', async () => {
  const server = await scripted();
  const one = server.message('one');
  const other = server.message('other', { conversation_id: 'alice,carol', sender_id: 'carol' });
  let tried = 0;
  server.judge = ({ name, payload }) => (name === 'receipt' && payload['up_to'] === one._id ? (tried++, problem('internal', 500)) : undefined);
  const watched = observe(server);
  const bad = watched.chat.read(one);
  expect((await watched.chat.read(other)).read_seq).toBe(1);
  await expect(bad).rejects.toMatchObject({ code: 'internal', status: 500 });
  expect(tried).toBe(10);
  expect(watched.errors.map(({ code }) => code)).toEqual(['internal']);
});

test.each(['websocket', 'sse'] as const)('a large message has the time that its bytes take, over %s', async (rung) => {
  const server = await scripted();
  // Its event must not tell before there is an answer, which comes later than that to a small one may.
  vi.spyOn(server, 'record').mockImplementation((fields) => fields as Recorded);
  server.delay = 600;
  const watched = observe(server, { transports: [rung], timing: { answer: 200 } });
  await watched.connected();
  await watched.chat.send({ to: 'bob', data: new Uint8Array(40_000) }).sent;
  expect(server.commands.length).toBe(1);
});

test('what is wrong with a draft makes it failed, and discarded it is gone', async () => {
  const server = await scripted();
  const watched = observe(server);
  const both = watched.chat.send({ to: 'bob', text: 'x', data: new Uint8Array(1) });
  const neither = watched.chat.send({ to: 'bob' });
  await expect(both.sent).rejects.toMatchObject({ code: 'draft_invalid' });
  await expect(neither.sent).rejects.toMatchObject({ code: 'draft_invalid' });
  expect(watched.chat.discard(both.key)).toBe(true);
  expect(watched.chat.discard(both.key)).toBe(false);
  expect(watched.chat.outgoing()).toEqual([neither]);
  expect(watched.outgoing.filter(([, state]) => state === 'discarded').map(([entry]) => entry)).toEqual([both]);
});

test('more than the queue has room for is refused at once', async () => {
  const server = await scripted();
  server.faults.set('websocket', 'refused');
  const watched = observe(server, { transports: ['websocket'] });
  const sent = Array.from({ length: 10_001 }, (_, index) => watched.chat.send({ to: 'bob', text: `${index}` }));
  await expect(sent[10_000]!.sent).rejects.toMatchObject({ code: 'queue_full' });
  expect(sent[10_000]!.state).toBe('failed');
  expect(watched.chat.outgoing()).toEqual(sent.slice(0, 10_000));
});

test('a key of the application is one message, however often it is said', async () => {
  const server = await scripted();
  const watched = observe(server);
  const one = watched.chat.send({ to: 'bob', text: 'an answer', key: 'answer-7' });
  expect(watched.chat.send({ to: 'bob', text: 'an answer', key: 'answer-7' })).toBe(one);
  await one.sent;
  await watched.chat.send({ to: 'bob', text: 'an answer', key: 'answer-7' }).sent;
  expect(server.log.map(({ key }) => key)).toEqual(['answer-7']);
});

test('what was not tried can be discarded, what may be with the server cannot', async () => {
  const server = await scripted();
  server.judge = ({ name }) => (name === 'send' ? 'hang' : undefined);
  const watched = observe(server, { timing: { answer: 1000 } });
  const first = watched.chat.send({ to: 'bob', text: 'first' });
  const second = watched.chat.send({ to: 'bob', text: 'second' });
  await until(() => server.commands.length > 0, 'the first one is on its way');
  expect(watched.chat.discard(first.key)).toBe(false);
  expect(watched.chat.discard(second.key)).toBe(true);
  await expect(second.sent).rejects.toMatchObject({ code: 'discarded' });
  server.judge = () => undefined;
  await first.sent;
  expect(server.log.map(({ message }) => message?.text)).toEqual(['first']);
});

test.each(TRANSPORTS)('bytes arrive as they were, both ways, over %s', async (rung) => {
  const server = await scripted();
  const watched = observe(server, { transports: [rung] });
  await watched.connected();
  const bytes = Uint8Array.from({ length: 70_000 }, (_, index) => index % 256);
  const { data } = await watched.chat.send({ to: 'bob', data: bytes, contentType: 'image/png' }).sent;
  const blob = await watched.chat.send({ to: 'bob', data: new Blob([bytes], { type: 'image/gif' }) }).sent;
  const buffer = await watched.chat.send({ to: 'bob', data: bytes.slice(0, 3).buffer }).sent;
  expect(data).toBeInstanceOf(Uint8Array);
  for (const given of [data, blob.data]) expect(Buffer.compare(given!, bytes)).toBe(0);
  expect([...buffer.data!]).toEqual([0, 1, 2]);
  await until(() => watched.messages.length === 3, 'they come');
  expect(watched.messages.map(({ data }) => data?.length)).toEqual([70_000, 70_000, 3]);
  expect(server.commands.map(({ payload }) => payload['content_type'])).toEqual(['image/png', 'image/gif', undefined]);
});

test('whoever answers has read what was before the answer', async () => {
  const server = await scripted();
  const watched = observe(server, { after: 'e:0' });
  const one = watched.chat.send({ to: 'bob', text: 'one' });
  const sent = await one.sent;
  server.message('an answer');
  await until(() => one.state === 'read', 'it is read');
  expect(watched.chat.stateOf(sent)).toBe('read');
  const two = watched.chat.send({ to: 'bob', text: 'two' });
  expect(watched.chat.stateOf(await two.sent)).toBe('sent');
});

test('pending, sent, delivered, read', async () => {
  const server = await scripted();
  const watched = observe(server, { after: 'e:0' });
  const one = watched.chat.send({ to: 'bob', text: 'one' });
  const two = watched.chat.send({ to: 'bob', text: 'two' });
  const [first] = await Promise.all([one.sent, two.sent]);
  server.record({ type: 'receipt.received', up_to: { _id: 2, seq: 2 } });
  await until(() => two.state === 'delivered', 'both are delivered');
  expect([one.state, watched.chat.stateOf(first)]).toEqual(['delivered', 'delivered']);
  // A mark of one's own says nothing about the other.
  server.record({ type: 'receipt.read', actor_id: 'alice', up_to: { _id: 2, seq: 2 } });
  server.record({ type: 'receipt.read', up_to: { _id: 1, seq: 1 } });
  await until(() => one.state === 'read', 'the first is read');
  expect([two.state, watched.chat.stateOf(first), watched.chat.stateOf(two.message!)]).toEqual(['delivered', 'read', 'delivered']);
  expect(watched.outgoing.map(([entry, state]) => [entry.text, state])).toEqual([
    ['one', 'pending'],
    ['two', 'pending'],
    ['one', 'sent'],
    ['two', 'sent'],
    ['one', 'delivered'],
    ['two', 'delivered'],
    ['one', 'read'],
  ]);
});

test('the queue survives a reload: what is pending is sent, with its key and its bytes, what failed is still there', async () => {
  const server = await scripted();
  const store = shelf();
  server.judge = (asked) => (text(asked) === 'bad' ? problem('content_empty', 422) : 'hang');
  const first = observe(server, { store });
  const bad = first.chat.send({ to: 'bob', text: 'bad' });
  await expect(bad.sent).rejects.toMatchObject({ code: 'content_empty' });
  const texts = ['one', 'two', 'three'].map((text) => first.chat.send({ to: 'bob', text }));
  const bytes = first.chat.send({ to: 'carol', data: new Uint8Array([255, 0]), contentType: 'image/png' });
  await until(() => [...store.values.keys()].filter((key) => key.includes('/outgoing/')).length === 5, 'all are stored');
  await first.chat.close();

  server.judge = () => undefined;
  server.commands.length = 0;
  const second = observe(server, { store });
  await until(() => server.log.length === 4 && second.chat.outgoing().length === 1, 'all are sent');
  // What the first life had on its way may come late, under the same key.
  const keys = new Set(server.commands.map(({ payload }) => payload['key']));
  expect([...keys]).toEqual([...texts.map(({ key }) => key), bytes.key]);
  expect([...server.log[3]!.message!.data!]).toEqual([255, 0]);
  expect(second.chat.outgoing().map(({ key, state, error }) => [key, state, error?.code])).toEqual([[bad.key, 'failed', 'content_empty']]);
  second.chat.discard(bad.key);
  await until(() => ![...store.values.keys()].some((key) => key.includes('/outgoing/')), 'nothing is left in the store');
});

test('what the store has refused is kept as soon as it takes things again, also where nothing else is written', async () => {
  const server = await scripted();
  const store = shelf();
  let refusals = 0;
  const refusing = {
    ...store,
    set: async (key: string, value: string) => {
      if (key.includes('/outgoing/') && refusals++ < 3) throw new Error('full');
      await store.set(key, value);
    },
  };
  for (const rung of TRANSPORTS) server.faults.set(rung, 'refused');
  const { chat } = observe(server, { store: refusing, timing: { store: 50 } });
  chat.send({ to: 'bob', text: 'one' });
  chat.send({ to: 'bob', text: 'two' });
  await until(() => chat.status.store?.code === 'store', 'it is said');
  await until(() => [...store.values.keys()].filter((key) => key.includes('/outgoing/')).length === 2, 'both are kept');
  await until(() => chat.status.store === undefined, 'it is said');
  await chat.close();
});

test('a message of an earlier life that was recorded is not recorded again', async () => {
  const server = await scripted();
  const store = shelf();
  // What the store has before the message is recorded: its own event may take it out.
  let kept = new Map<string, string>();
  server.judge = ({ name }) => {
    if (name !== 'send') return undefined;
    kept = new Map(store.values);
    return 'lose';
  };
  const first = observe(server, { store, transports: ['long-poll'], timing: { answer: 600_000, poll: 600_000, silence: 600_000 } });
  await first.connected();
  first.chat.send({ to: 'bob', text: 'once' });
  await until(() => server.log.length === 1, 'it is recorded');
  await first.chat.close();
  for (const [key, value] of kept) store.values.set(key, value);
  server.judge = () => undefined;
  const second = observe(server, { store });
  await until(() => server.commands.length > 1, 'it is sent again');
  await until(() => second.chat.outgoing().length === 0, 'it is answered');
  expect(server.log.length).toBe(1);
});

test('with forget nothing of the user stays in the store, however far it has come, and what is others’ does', async () => {
  const server = await scripted();
  const store = shelf();
  const keys = (user: string) => [...store.values.keys()].filter((key) => key.includes(` ${user}/`));
  server.judge = (asked) => (text(asked) === 'bad' ? problem('content_empty', 422) : 'hang');
  const carol = observe(server, { store, token: tokenOf('carol') });
  carol.chat.send({ to: 'bob', text: 'hers' });
  await until(() => keys('carol').length > 0, 'hers is stored');
  await carol.chat.close();
  // One that an earlier life has left, one that is refused, one that is on its way, one behind it.
  const earlier = observe(server, { store });
  earlier.chat.send({ to: 'bob', text: 'of an earlier life' });
  await until(() => keys('alice').some((key) => key.includes('/outgoing/')), 'it is stored');
  await earlier.chat.close();
  const { chat } = observe(server, { store });
  for (const text of ['bad', 'on its way', 'behind it']) chat.send({ to: 'bob', text });
  await until(() => keys('alice').filter((key) => key.includes('/outgoing/')).length === 4, 'all are stored');
  await chat.close({ forget: true });
  expect(keys('alice')).toEqual([]);
  expect(keys('carol')).not.toEqual([]);
  expect([...store.values.values()].join()).toContain('hers');
  // Also where it was closed before.
  await chat.close({ forget: true });
});

test('another user of the same store neither sees nor sends it', async () => {
  const server = await scripted();
  const store = shelf();
  server.judge = () => 'hang';
  const alice = observe(server, { store });
  alice.chat.send({ to: 'bob', text: 'mine' });
  await until(() => server.commands.length === 1, 'it is tried');
  await alice.chat.close();
  server.judge = () => undefined;
  server.commands.length = 0;
  const carol = observe(server, { store, token: tokenOf('carol') });
  await carol.connected();
  expect(carol.chat.outgoing()).toEqual([]);
  const again = observe(server, { store });
  await until(() => server.commands.length === 1, 'it is sent by its own user');
  expect(server.tokens.at(-1)).toBe(tokenOf('alice'));
  await until(() => again.chat.outgoing().length === 0, 'it is answered');
});

test('receipts are merged, kept until they are taken, and refused where they are wrong', async () => {
  const server = await scripted();
  const messages = ['one', 'two', 'three'].map((text) => server.message(text));
  let refusals = 0;
  server.judge = ({ name }) => (name === 'receipt' && refusals++ < 2 ? problem('overloaded', 503, { retry_after: 0.01 }) : undefined);
  const watched = observe(server);
  const said = messages.map((message) => watched.chat.received(message));
  const read = watched.chat.read(messages[1]!);
  expect((await Promise.all(said)).map(({ received_seq }) => received_seq)).toEqual([3, 3, 3]);
  expect((await read).read_seq).toBe(2);
  expect(server.log.slice(3).map(({ type, up_to }) => [type, up_to!.seq])).toEqual([
    ['receipt.received', 3],
    ['receipt.read', 2],
  ]);
  server.judge = () => problem('message_not_found', 404);
  await expect(watched.chat.read(messages[2]!)).rejects.toMatchObject({ code: 'message_not_found', status: 404 });
});
