/** What the ladder does between the faults: up again, no gap, no double, and nothing that hangs for ever. */
import { describe, expect, test, vi } from 'vitest';

import type { ConnectOptions, Message } from '../src/index.js';
import { TRANSPORTS } from '../src/ladder.js';
import { observe, scripted, shelf, until } from './support/observed.js';
import { problem, tokenOf } from './support/scripted.js';

const SOON = { climb: 20, climbMax: 100 };

test('it climbs to the top as soon as that is free, without a gap and without a double', async () => {
  const server = await scripted();
  for (const rung of ['websocket', 'polling', 'sse'] as const) server.faults.set(rung, 'refused');
  const watched = observe(server, { after: 'e:0', timing: SOON });
  await watched.connected();
  expect(watched.chat.status.transport).toBe('long-poll');
  let written = 0;
  const writing = setInterval(() => server.message(`${++written}`), 1);
  await until(() => watched.messages.length > 20, 'it is live');
  server.faults.clear();
  await until(() => watched.chat.status.transport === 'websocket', 'it is at the top');
  const there = written;
  await until(() => watched.messages.length > there + 20, 'it is live at the top');
  clearInterval(writing);
  await watched.gave(Array.from({ length: written }, (_, index) => `${index + 1}`));
});

test('it climbs to the best rung that there is, and stays there', async () => {
  const server = await scripted();
  for (const rung of ['websocket', 'polling', 'sse'] as const) server.faults.set(rung, 'refused');
  const watched = observe(server, { after: 'e:0', timing: SOON });
  await watched.connected();
  server.faults.delete('sse');
  await until(() => watched.chat.status.transport === 'sse', 'it has climbed');
  server.faults.delete('polling');
  await until(() => watched.chat.status.transport === 'polling', 'it has climbed again');
  const tried = server.tried.length;
  await until(() => server.tried.length > tried + 2, 'it goes on trying');
  expect(watched.chat.status).toEqual({ state: 'connected', transport: 'polling' });
});

test('a better rung that only pretends to be one is left again, ever more rarely tried', async () => {
  const server = await scripted();
  server.faults.set('websocket', 'closing mid-stream');
  const watched = observe(server, { after: 'e:0', transports: ['websocket', 'polling'], timing: { climb: 20, climbMax: 60_000, stable: 30_000 } });
  await watched.connected();
  let written = 0;
  const writing = setInterval(() => server.message(`${++written}`), 2);
  await until(() => watched.transports.filter((transport) => transport === 'polling').length >= 3, 'it went down three times');
  clearInterval(writing);
  await watched.gave(Array.from({ length: written }, (_, index) => `${index + 1}`));
  await until(() => watched.chat.status.state === 'connected', 'it is connected');
});

test('it begins with the rung that has held, and forgets it when another has', async () => {
  const server = await scripted();
  const store = shelf();
  const { values } = store;
  server.faults.set('websocket', 'refused');
  // With one rung it tries no better one, which could still be on its way when the second begins.
  const first = observe(server, { store, transports: ['polling'], timing: { stable: 10 } });
  await until(() => [...values.values()].includes('polling'), 'it is remembered');
  await first.chat.close();
  server.tried.length = 0;
  const second = observe(server, { store, timing: { stable: 10, climb: 20 } });
  await second.connected();
  expect(server.tried[0]).toBe('polling');
  server.faults.clear();
  await until(() => [...values.values()].includes('websocket'), 'the better one is remembered');
});

test('a server that is away and comes back is found over the same rung', async () => {
  const server = await scripted();
  const watched = observe(server, { after: 'e:0', timing: { ...SOON, retryMax: 20 } });
  await watched.connected();
  server.message('one');
  await watched.gave(['one']);
  for (const rung of ['websocket', 'polling', 'sse', 'long-poll'] as const) server.faults.set(rung, 'refused');
  server.cut();
  await until(() => watched.statuses.filter(({ state }) => state === 'waiting').length >= 3, 'it waits, again and again');
  server.message('two');
  server.faults.clear();
  await until(() => watched.chat.status.transport === 'websocket' && watched.chat.status.state === 'connected', 'it is back');
  server.message('three');
  await watched.gave(['one', 'two', 'three']);
});

/** The events of a page, for a platform that has none. */
async function withEvents(use: (target: EventTarget) => Promise<void>): Promise<void> {
  const target = new EventTarget();
  vi.stubGlobal('addEventListener', target.addEventListener.bind(target));
  vi.stubGlobal('removeEventListener', target.removeEventListener.bind(target));
  try {
    await use(target);
  } finally {
    vi.unstubAllGlobals();
  }
}

test('the network that comes back cuts the pause short', () =>
  withEvents(async (target) => {
    const server = await scripted();
    for (const rung of ['websocket', 'polling', 'sse', 'long-poll'] as const) server.faults.set(rung, 'refused');
    const watched = observe(server, { timing: { retry: 600_000, retryMax: 600_000 } });
    await until(() => watched.chat.status.state === 'waiting', 'it waits');
    server.faults.clear();
    target.dispatchEvent(new Event('online'));
    await watched.connected();
    await watched.chat.close();
  }));

test.each(TRANSPORTS)('a connection that is dead without knowing it is replaced when the network is back, over %s', (rung) =>
  withEvents(async (target) => {
    const server = await scripted();
    server.faults.set(rung, 'silent');
    server.message('one');
    const watched = observe(server, { after: 'e:0', transports: [rung], timing: { silence: 600_000, answer: 600_000 } });
    await watched.gave(['one']);
    server.message('two');
    server.faults.clear();
    expect(watched.texts).toEqual(['one']);
    target.dispatchEvent(new Event('online'));
    await watched.gave(['one', 'two']);
    await watched.chat.close();
  }));

test.each(TRANSPORTS)('behind a proxy that adds a prefix, over %s', async (rung) => {
  const server = await scripted();
  server.prefix = '/some/chat';
  const watched = observe({ url: `${server.url}/some/chat/` }, { after: 'e:0', transports: [rung], load: true });
  await watched.chat.send({ to: 'bob', text: 'one' }).sent;
  await watched.gave(['one']);
});

test('a handler that takes its time is waited for, and what waits for it is bounded', async () => {
  const server = await scripted();
  const watched = observe(server, { after: 'e:0', timing: { silence: 600_000 } });
  let busy = 0;
  let most = 0;
  const taken: number[] = [];
  let open!: () => void;
  const gate = new Promise<void>((resolve) => (open = resolve));
  watched.chat.on('message', async (message: Message) => {
    most = Math.max(most, ++busy);
    if (message.seq === 1) await gate;
    taken.push(message.seq);
    busy--;
  });
  await watched.connected();
  for (let index = 0; index < 3000; index++) server.message(`${index}`);
  await until(() => server.listeners === 0, 'it is full, and listens no more');
  // A command needs no place in the queue.
  await watched.chat.send({ to: 'bob', text: 'while it is busy' }).sent;
  expect([watched.chat.cursor, server.begun.length]).toEqual(['e:0', 1]);
  open();
  await until(() => taken.length === 3001, 'all are taken');
  expect(most).toBe(1);
  expect(taken).toEqual(Array.from({ length: 3001 }, (_, index) => index + 1));
  expect(server.begun.length).toBeGreaterThan(1);
});

test.each(['websocket', 'sse'] as const)('a token that ends soon is replaced over %s, without a break', async (rung) => {
  const server = await scripted();
  let fetched = 0;
  const watched = observe(server, { after: 'e:0', transports: [rung], token: () => tokenOf('alice', `n${++fetched}`) });
  await watched.connected();
  server.message('one');
  server.say('expiring', { expires_at: 1_790_000_000 });
  await until(() => server.tokens.at(-1) === tokenOf('alice', 'n2'), 'it has shown another token');
  server.message('two');
  await watched.gave(['one', 'two']);
  expect(fetched).toBe(2);
  expect(watched.statuses.every(({ state }) => state === 'connecting' || state === 'connected')).toBe(true);
});

test.each(['websocket', 'polling', 'sse'] as const)('a stream that ends with its token goes on with another one, over %s', async (rung) => {
  const server = await scripted();
  let fetched = 0;
  const watched = observe(server, { after: 'e:0', transports: [rung], token: () => tokenOf('alice', `n${++fetched}`) });
  await watched.connected();
  server.dismiss('token_expired', 0);
  await until(() => server.tokens.includes(tokenOf('alice', 'n2')), 'it has shown another token');
  server.message('one');
  await watched.gave(['one']);
  expect(watched.errors).toEqual([]);
});

test.each(TRANSPORTS)('a token that is given early is shown at once, and the end of the old one is no end, over %s', async (rung) => {
  const server = await scripted();
  const [old, fresh] = [tokenOf('alice', 'old'), tokenOf('alice', 'fresh')];
  const watched = observe(server, { after: 'e:0', transports: [rung], token: old });
  await watched.connected();
  watched.chat.authenticate(fresh);
  await until(() => server.tokens.at(-1) === fresh, 'it has shown the fresh one');
  server.authorize = (token) => (token === fresh ? undefined : problem('token_expired', 401));
  server.cut();
  server.message('one');
  await watched.gave(['one']);
  expect(watched.errors).toEqual([]);
  expect(watched.statuses.some(({ state }) => state === 'failed')).toBe(false);
});

test('a link that ends with the old token goes on with the one that was given', async () => {
  const server = await scripted();
  const [old, fresh] = [tokenOf('alice', 'old'), tokenOf('alice', 'fresh')];
  const watched = observe(server, { after: 'e:0', transports: ['websocket'], token: old });
  await watched.connected();
  // In the same moment: before the link is told of it.
  watched.chat.authenticate(fresh);
  server.dismiss('token_expired', 0);
  server.message('one');
  await watched.gave(['one']);
  await until(() => watched.chat.status.state === 'connected', 'it is connected');
  expect(watched.errors.filter(({ code }) => code === 'token_expired')).toEqual([]);
});

test('a token that never comes is asked for again', async () => {
  const server = await scripted();
  let asked = 0;
  const token = () => (++asked === 1 ? new Promise<string>(() => {}) : tokenOf('alice'));
  const watched = observe(server, { userId: 'alice', token, timing: { answer: 50 } });
  await watched.connected();
  expect(asked).toBe(2);
  expect(watched.statuses.find(({ state }) => state === 'waiting')?.error?.code).toBe('token_unavailable');
});

test('a page that comes slowly comes, as long as something comes', async () => {
  const server = await scripted();
  for (let index = 0; index < 5; index++) server.message(`${index}`);
  /** In ten pieces, which together take longer than the limit. */
  const slow: typeof fetch = async (url, init) => {
    const answer = await fetch(url, init);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const piece = Math.ceil(bytes.length / 10);
    let at = 0;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        await new Promise((turn) => setTimeout(turn, 400));
        init?.signal?.throwIfAborted();
        if (at >= bytes.length) return controller.close();
        controller.enqueue(bytes.slice(at, (at += piece)));
      },
    });
    return new Response(body, answer);
  };
  const watched = observe(server, { after: 'e:0', transports: ['long-poll'], fetch: slow, timing: { ready: 3000, silence: 0, answer: 3000, poll: 3000 } });
  await watched.gave(['0', '1', '2', '3', '4']);
  expect(server.begun.filter(({ after }) => after === 'e:0').length).toBe(1);
});

test('a token that cannot be had is asked for again', async () => {
  const server = await scripted();
  let asked = 0;
  const watched = observe(server, {
    userId: 'alice',
    token: async () => {
      if (++asked < 4) throw new Error('offline');
      return tokenOf('alice');
    },
  });
  await watched.connected();
  expect(asked).toBe(4);
  expect(watched.statuses.find(({ state }) => state === 'waiting')?.error?.code).toBe('token_unavailable');
});

test("another user's token is refused before it is shown to anybody", async () => {
  const server = await scripted();
  const watched = observe(server, { userId: 'alice', token: tokenOf('mallory') });
  await until(() => watched.chat.status.state === 'failed', 'it failed');
  expect(watched.errors.map(({ code }) => code)).toEqual(['token_user_mismatch']);
  expect(server.tokens).toEqual([]);
});

test('a cursor that the server does not know is said to be lost, if it was the store that had it', async () => {
  const server = await scripted();
  const store = shelf();
  store.values.set(`chat-system ${server.url} alice/cursor/gone`, JSON.stringify({ cursor: 'nonsense', position: 7 }));
  let refusals = 0;
  server.authorize = () => (refusals++ === 0 ? problem('cursor_invalid', 400) : undefined);
  const watched = observe(server, { store });
  await watched.connected();
  expect(watched.resets).toEqual([{ reason: 'cursor_invalid', oldest: 0 }]);
  server.message('one');
  await watched.gave(['one']);
  server.authorize = () => problem('cursor_invalid', 400);
  const given = observe(server, { after: 'nonsense' });
  await until(() => given.chat.status.state === 'failed', 'what the application gave is its own mistake');
  expect(given.errors.map(({ code }) => code)).toEqual(['cursor_invalid']);
});

test('nothing is left of a chat that was closed', async () => {
  const server = await scripted();
  const watched = observe(server, { after: 'e:0', transports: ['polling'] });
  await watched.connected();
  await watched.chat.close();
  expect(watched.chat.status).toEqual({ state: 'closed' });
  const tried = server.tried.length;
  server.message('one');
  server.cut();
  await new Promise((turn) => setImmediate(turn));
  expect([server.tried.length, watched.messages]).toEqual([tried, []]);
  await expect(watched.chat.received({ _id: 1, conversation_id: 'alice,bob' })).rejects.toMatchObject({ code: 'closed' });
});

const NGINX = '<html><head><title>400 Request Header Or Cookie Too Large</title></head><body><center><h1>400 Bad Request</h1></center><center>Request Header Or Cookie Too Large</center></body></html>';

/** What stands before the server refuses the head of every request that has the token in it. */
function headsOf(status: number, body: string): typeof fetch {
  return async () => new Response(body, { status, headers: { 'Content-Type': 'text/html' } });
}

test.each([
  [400, NGINX, 'head_too_large'],
  [431, '', 'head_too_large'],
  [400, '<h1>Bad Request</h1>', 'answer_invalid'],
  [403, '<h1>Forbidden</h1>', 'answer_invalid'],
] as const)('a proxy that answers %i to every request is told, once, with its code, while it waits', async (status, body, code) => {
  const server = await scripted();
  for (const options of [{ transports: ['sse'] }, { transports: ['long-poll'] }, { load: true }] as const) {
    const watched = observe(server, { ...options, fetch: headsOf(status, body) } as Partial<ConnectOptions>);
    await until(() => watched.statuses.filter(({ state }) => state === 'waiting').length >= 3, 'it waits, again and again');
    expect(watched.statuses.filter(({ state }) => state === 'waiting').at(-1)?.error).toMatchObject({ code, status });
    expect(watched.errors.map(({ code, status }) => [code, status])).toEqual([[code, status]]);
    await watched.chat.close();
  }
});

test('a token that is too large for a proxy of polling is told too', async () => {
  const server = await scripted();
  const { createServer } = await import('node:http');
  const nginx = createServer((request, response) => void request.resume().on('end', () => response.writeHead(400, { 'Content-Type': 'text/html' }).end(NGINX)));
  await new Promise<void>((listening) => nginx.listen(0, '127.0.0.1', listening));
  const { port } = nginx.address() as { port: number };
  const watched = observe({ url: `http://127.0.0.1:${port}` }, { transports: ['polling'] });
  await until(() => watched.errors.length > 0, 'it is told');
  expect(watched.errors[0]).toMatchObject({ code: 'head_too_large', status: 400 });
  await watched.chat.close();
  nginx.closeAllConnections();
  await new Promise((closed) => nginx.close(closed));
  expect(server.tried).toEqual([]);
});

test('a page that cannot be loaded again is told, though the connection is there', async () => {
  const server = await scripted();
  let refuse = false;
  const proxied: typeof fetch = async (url, init) => (refuse ? new Response(NGINX, { status: 400 }) : fetch(url, init));
  const watched = observe(server, { load: true, transports: ['websocket'], fetch: proxied });
  await watched.connected();
  refuse = true;
  watched.chat.reload();
  await until(() => watched.errors.length > 0, 'it is told');
  expect(watched.errors[0]!.code).toBe('head_too_large');
  refuse = false;
  await until(() => watched.loaded.length === 2, 'it is loaded again');
});

test("whether a token is still good is the server's to say, whatever the clock of this machine says", async () => {
  const server = await scripted();
  const token = `e30.${Buffer.from(JSON.stringify({ sub: 'alice', nbf: 4_000_000_000, exp: 1 })).toString('base64url')}.x`;
  const watched = observe(server, { token });
  await watched.connected();
  expect(server.tokens).toEqual([token]);
});

/** A page that was in the back/forward cache, or frozen. */
const RETURNS: [string, () => [EventTarget | undefined, Event]][] = [
  ['comes back from the back/forward cache', () => [undefined, Object.assign(new Event('pageshow'), { persisted: true })]],
  ['is not frozen any more', () => [document, new Event('resume')]],
];

describe.each(RETURNS)('a page that %s', (_, event) => {
  test.each(TRANSPORTS)('has a new connection at once, over %s', (rung) =>
    withEvents(async (target) => {
      vi.stubGlobal('document', Object.assign(new EventTarget(), { visibilityState: 'visible' }));
      const server = await scripted();
      server.faults.set(rung, 'silent');
      server.message('one');
      const watched = observe(server, { after: 'e:0', transports: [rung], timing: { silence: 600_000, answer: 600_000 } });
      await watched.gave(['one']);
      server.message('two');
      server.faults.clear();
      watched.statuses.length = 0;
      const [on, said] = event();
      (on ?? target).dispatchEvent(said);
      // It does not say that all is well before it is.
      expect(watched.chat.status).toEqual({ state: 'connecting', transport: rung });
      await watched.gave(['one', 'two']);
      expect(watched.statuses.map(({ state }) => state)).toEqual(['connecting', 'connected']);
      expect(watched.chat.status.transport).toBe(rung);
      await watched.chat.close();
    }));

  test('and finds no network does not go on saying that it is connected', () =>
    withEvents(async (target) => {
      vi.stubGlobal('document', Object.assign(new EventTarget(), { visibilityState: 'visible' }));
      const server = await scripted();
      // No heartbeats and no receipts: after the message nothing is on its way any more.
      server.faults.set('polling', 'silent');
      server.message('one');
      const timing = { ready: 1500, retry: 600_000, retryMax: 600_000, silence: 600_000 };
      const receipts = { received: false, read: false };
      const watched = observe(server, { after: 'e:0', transports: ['polling'], receipts, timing });
      await watched.gave(['one']);
      server.hush();
      server.faults.set('polling', 'hanging');
      const [on, said] = event();
      (on ?? target).dispatchEvent(said);
      await until(() => watched.chat.status.state === 'waiting', 'it waits');
      await watched.chat.close();
    }));
});

test('a page that is shown for the first time has a connection already', () =>
  withEvents(async (target) => {
    const server = await scripted();
    const watched = observe(server, { transports: ['websocket'] });
    await watched.connected();
    target.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: false }));
    expect(watched.chat.status.state).toBe('connected');
    expect(server.tried.length).toBe(1);
    await watched.chat.close();
  }));
