/** Times that somebody else tells, the server or a proxy: whatever they are, it neither hammers nor waits for hours. */
import { describe, expect, test, vi } from 'vitest';

import type { ConnectOptions, Transport } from '../src/index.js';
import { observe, scripted, until, type Observed } from './support/observed.js';
import { problem, tokenOf, type Scripted } from './support/scripted.js';

/** Half of each pause is chance: within a second these allow seven requests at most, and nobody asks for more than eight. */
const PACE = { retry: 100, retryMax: 400 };
const SECOND = 1000;
const MOST = 8;
/** Seconds: the longest pause that may be asked for, and a fifth of it by chance. */
const LONGEST = 72;

/** As a header has them. */
const HEADERS = ['0', '', '-1', 'NaN', 'soon', '1e3', '0.001', '3600', '2147484', '9'.repeat(400), 'Thu, 01 Jan 1970 00:00:00 GMT', 'Fri, 31 Dec 9999 23:59:59 GMT'];
/** As JSON has them; the last one is `Infinity` for whoever parses it. */
const NUMBERS = ['0', '-1', 'null', '"5"', '{}', '1e-9', '3600', '2147484', '1e300', '1e999'];

const html = (status: number, retryAfter?: string) =>
  new Response('<h1>Unavailable</h1>', { status, ...(retryAfter === undefined ? {} : { headers: { 'Retry-After': retryAfter } }) });

/** A source of such a time, for a value: what is asked, how often. */
type Source = (server: Scripted, value: string) => { options: Partial<ConnectOptions>; asked: () => number; sends?: boolean };

const counted = (answer: (init: RequestInit | undefined) => Response | undefined) => {
  let asked = 0;
  const fetching: typeof fetch = async (url, init) => {
    const given = answer(init);
    if (!given) return fetch(url, init);
    asked++;
    return given;
  };
  return { fetch: fetching, asked: () => asked };
};

const connecting =
  (transport: Transport): Source =>
  (_, value) => {
    const { fetch, asked } = counted(() => html(503, value));
    return { options: { transports: [transport], fetch }, asked };
  };

const sending: Source = (_, value) => {
  const { fetch, asked } = counted((init) => (init?.method === 'POST' ? html(429, value) : undefined));
  return { options: { transports: ['sse'], fetch }, asked, sends: true };
};

const answered =
  (transport: Transport): Source =>
  (server, value) => {
    const retry_after = JSON.parse(value);
    server.judge = ({ name }) => (name === 'send' ? problem('overloaded', 503, { retry_after }) : undefined);
    return { options: { transports: [transport] }, asked: () => server.commands.length, sends: true };
  };

const posted: Source = (_, value) => {
  const body = `{"code":"overloaded","status":503,"title":"later","retry_after":${value}}`;
  const { fetch, asked } = counted((init) => (init?.method === 'POST' ? new Response(body, { status: 503 }) : undefined));
  return { options: { transports: ['sse'], fetch }, asked, sends: true };
};

const refused =
  (transport: Transport): Source =>
  (server, value) => {
    server.authorize = () => problem('overloaded', 503, { retry_after: JSON.parse(value) });
    return { options: { transports: [transport] }, asked: () => server.tried.length };
  };

const closing =
  (transport: Transport, code: string, token?: () => string): Source =>
  (server, value) => {
    server.last = { code, retry_after: JSON.parse(value) };
    return { options: { transports: [transport], ...(token ? { token } : {}) }, asked: () => server.tried.length };
  };

const renewed = () => tokenOf('alice', `${Math.random()}`);

const SOURCES: [string, string[], Source][] = [
  ['Retry-After of a stream that is refused', HEADERS, connecting('sse')],
  ['Retry-After of a poll that is refused', HEADERS, connecting('long-poll')],
  ['Retry-After of a send that is refused', HEADERS, sending],
  ['retry_after of a send, by websocket', NUMBERS, answered('websocket')],
  ['retry_after of a send, by request', NUMBERS, posted],
  ['retry_after of a handshake, by websocket', NUMBERS, refused('websocket')],
  ['retry_after of a handshake, by polling', NUMBERS, refused('polling')],
  ['retry_after of a stream', NUMBERS, refused('sse')],
  ['retry_after of a poll', NUMBERS, refused('long-poll')],
  ['closing, by websocket', NUMBERS, closing('websocket', 'overloaded')],
  ['closing, by polling', NUMBERS, closing('polling', 'shutdown')],
  ['closing, by sse', NUMBERS, closing('sse', 'too_many_connections')],
  ['closing for a token that is no better the next time, by websocket', NUMBERS, closing('websocket', 'token_expired', renewed)],
  ['closing for a token that is no better the next time, by sse', NUMBERS, closing('sse', 'token_expired', renewed)],
];

/** How often it is asked within a second, and how long it waits then, in seconds. */
async function paceOf(source: Source, value: string): Promise<{ value: string; asked: number; waits: number }> {
  const server = await scripted();
  const { options, asked, sends } = source(server, value);
  const watched = observe(server, { ...options, timing: PACE });
  if (sends) {
    await watched.connected();
    void watched.chat.send({ to: 'bob', text: 'one' });
  }
  await until(() => asked() > 0, 'it asks');
  await new Promise((over) => setTimeout(over, SECOND));
  const { retryAt = 0 } = watched.chat.status;
  return { value, asked: asked(), waits: Math.max(0, (retryAt - Date.now()) / SECOND) };
}

test.each(SOURCES)('%s, whatever it says', async (_, values, source) => {
  const paces = await Promise.all(values.map((value) => paceOf(source, value)));
  expect(paces.filter(({ asked, waits }) => asked > MOST || waits > LONGEST)).toEqual([]);
});

test('pauses grow as it is repeated, and what is asked for is kept where it is within reason', async () => {
  const server = await scripted();
  const at: number[] = [];
  server.judge = () => {
    at.push(Date.now());
    return at.length < 6 ? problem('overloaded', 503, { retry_after: 0.03 }) : undefined;
  };
  await observe(server, { timing: { retry: 40, retryMax: 600_000 } }).chat.send({ to: 'bob', text: 'one' }).sent;
  const pauses = at.slice(1).map((time, index) => time - at[index]!);
  for (const [index, least] of [29, 39, 79, 159, 319].entries()) expect(pauses[index]).toBeGreaterThanOrEqual(least);
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

const CUTS: [string, (target: EventTarget, watched: Observed) => unknown][] = [
  ['the network that comes back', (target) => target.dispatchEvent(new Event('online'))],
  ['somebody who looks', (target) => target.dispatchEvent(new Event('focus'))],
  ['another token', (_, { chat }) => chat.authenticate(tokenOf('alice', 'other'))],
];

describe.each(CUTS)('%s cuts short what was asked for', (_, cut) => {
  test('of a connection', () =>
    withEvents(async (target) => {
      const server = await scripted();
      server.authorize = () => problem('overloaded', 503, { retry_after: 3600 });
      const watched = observe(server);
      await until(() => watched.chat.status.state === 'waiting', 'it waits');
      server.authorize = () => undefined;
      cut(target, watched);
      await watched.connected();
      await watched.chat.close();
    }));

  test('of a send', () =>
    withEvents(async (target) => {
      const server = await scripted();
      server.judge = () => problem('overloaded', 503, { retry_after: 3600 });
      const watched = observe(server);
      const one = watched.chat.send({ to: 'bob', text: 'one' });
      await until(() => server.commands.length === 1, 'it is refused');
      await new Promise((turn) => setTimeout(turn, 50));
      server.judge = () => undefined;
      cut(target, watched);
      await one.sent;
      await watched.chat.close();
    }));
});

test.each(['0', '-1', 'null', '"5"', '0.001', '2147484', '1e300', '1e999'])('a heartbeat of %s s neither ends what lives nor keeps what is dead', async (value) => {
  const server = await scripted();
  server.heartbeat = JSON.parse(value);
  const watched = observe(server, { after: 'e:0', transports: ['websocket'], timing: { silence: 400 } });
  await watched.connected();
  // As often as it really beats.
  await new Promise((over) => setTimeout(over, 1000));
  expect(server.begun.length).toBe(1);
  server.message('one');
  await watched.gave(['one']);
});

test('a stream that is silent beyond a short heartbeat ends, however short it says to be', async () => {
  const server = await scripted();
  server.heartbeat = 0.001;
  server.faults.set('websocket', 'silent');
  const watched = observe(server, { after: 'e:0', transports: ['websocket'], timing: { silence: 200 } });
  server.message('one');
  await watched.gave(['one']);
  const since = Date.now();
  await until(() => server.begun.length > 1, 'it comes again');
  expect(Date.now() - since).toBeGreaterThanOrEqual(900);
});

test.each([
  ['nothing at once, whatever it was asked to wait', false],
  ['more of nothing', true],
])('a poll that answers %s is asked at growing distances', async (_, more) => {
  const server = await scripted();
  let asked = 0;
  const cached: typeof fetch = async () => {
    asked++;
    return new Response(JSON.stringify({ events: [], cursor: 'e:0', more }));
  };
  const watched = observe(server, { transports: ['long-poll'], fetch: cached, timing: { ...PACE, poll: 25_000 } });
  await watched.connected();
  await new Promise((over) => setTimeout(over, SECOND));
  expect(asked).toBeLessThanOrEqual(MOST + 1);
});

test('a server that says again and again that the token ends is given another one at a distance', async () => {
  const server = await scripted();
  let fetched = 0;
  const watched = observe(server, { transports: ['websocket'], token: () => tokenOf('alice', `n${++fetched}`) });
  await watched.connected();
  for (let said = 0; said < 50; said++) {
    server.say('expiring', { expires_at: 1 });
    await new Promise((turn) => setTimeout(turn, 2));
  }
  expect(fetched).toBe(2);
});
