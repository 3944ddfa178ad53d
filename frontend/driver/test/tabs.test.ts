/** Stores, and the tabs that share one. */
import 'fake-indexeddb/auto';
import { forceCloseDatabase } from 'fake-indexeddb';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import type { Observed } from './support/observed.js';
import { PlaceKeeper } from '../src/place.js';
import { Seats } from '../src/seats.js';
import { openStore } from '../src/store.js';
import { observe, scripted, shelf, until } from './support/observed.js';
import { Locks } from './support/locks.js';
import { problem, tokenOf, type Asked, type Scripted } from './support/scripted.js';

/** `localStorage`, which Node has not. */
class Shelf {
  readonly values = new Map<string, string>();
  get length(): number {
    return this.values.size;
  }
  key(index: number): string | null {
    return [...this.values.keys()][index] ?? null;
  }
  getItem(key: string): string | null {
    return this.values.get(key) ?? null;
  }
  setItem(key: string, value: string): void {
    this.values.set(key, value);
  }
  removeItem(key: string): void {
    this.values.delete(key);
  }
}

beforeEach(() => {
  vi.stubGlobal('localStorage', new Shelf());
  vi.stubGlobal('indexedDB', new IDBFactory());
});
afterEach(() => void vi.unstubAllGlobals());

const KINDS = ['memory', 'local', 'indexeddb'] as const;

test.each(KINDS)('the store %s keeps what it is given', async (kind) => {
  const store = await openStore(kind);
  await store.set('a/1', 'one');
  await store.set('a/2', 'two');
  await store.set('b/1', 'other');
  await store.set('a/1', 'one again');
  await store.delete('a/2');
  expect([await store.get('a/1'), await store.get('a/2')]).toEqual(['one again', undefined]);
  expect(await store.keys('a/')).toEqual(['a/1']);
  const again = await openStore(kind);
  expect(await again.get('b/1')).toBe(kind === 'memory' ? undefined : 'other');
});

test.each(['local', 'indexeddb'] as const)('without %s it is in memory, and works', async (kind) => {
  const server = await scripted();
  vi.stubGlobal('localStorage', undefined);
  vi.stubGlobal('indexedDB', undefined);
  const watched = observe(server, { store: kind });
  await watched.chat.send({ to: 'bob', text: 'one' }).sent;
  vi.stubGlobal('localStorage', {
    setItem() {
      throw new Error('refused');
    },
  });
  vi.stubGlobal('indexedDB', {
    open() {
      throw new Error('refused');
    },
  });
  const other = observe(server, { store: kind });
  await other.chat.send({ to: 'bob', text: 'two' }).sent;
});

test('a store that fails later is told, and takes nothing with it', async () => {
  const server = await scripted();
  const broken = async (): Promise<never> => {
    throw new Error('full');
  };
  const watched = observe(server, { after: 'e:0', store: { get: broken, set: broken, delete: broken, keys: broken } });
  await watched.chat.send({ to: 'bob', text: 'one' }).sent;
  await watched.gave(['one']);
  expect(new Set(watched.errors.map(({ code }) => code))).toEqual(new Set(['store']));
});

/** A store that answers nothing, from some time on, and then all of it. */
function stuck(): ReturnType<typeof shelf> & { stick(): void; loosen(): void } {
  const inner = shelf();
  let free = Promise.resolve();
  let loosen = () => {};
  const stick = () => void (free = new Promise((resolve) => (loosen = resolve)));
  const after =
    <A extends unknown[], R>(call: (...args: A) => Promise<R>) =>
    async (...args: A) => {
      await free;
      return call(...args);
    };
  const { get, set, keys } = inner;
  return { ...inner, get: after(get), set: after(set), delete: after(inner.delete), keys: after(keys), stick, loosen: () => loosen() };
}

test('a store that never answers keeps nothing from going on, and that is said', async () => {
  const server = await scripted();
  const store = stuck();
  store.stick();
  const watched = observe(server, { store, timing: { store: 50 } });
  await watched.connected();
  expect(watched.chat.status).toMatchObject({ state: 'connected', store: { code: 'store' } });
  await watched.chat.send({ to: 'bob', text: 'one' }).sent;
  await watched.gave(['one']);
  // Said once, not with each thing that it should have kept; and that it may have had a place.
  expect(watched.errors.map(({ code }) => code)).toEqual(['store']);
  expect(watched.resets).toEqual([{ reason: 'store', oldest: 0 }]);
  const closing = Date.now();
  await watched.chat.close();
  expect(Date.now() - closing).toBeLessThan(2000);
});

test('a store that stops answering has what waits as soon as it answers again', async () => {
  const server = await scripted();
  const store = stuck();
  const watched = observe(server, { after: 'e:0', store, timing: { store: 50, retry: 600_000, retryMax: 600_000 } });
  await watched.connected();
  store.stick();
  server.judge = () => problem('overloaded', 503, { retry_after: 60 });
  const entry = watched.chat.send({ to: 'bob', text: 'one' });
  await until(() => server.commands.length === 1, 'it is tried without being kept');
  expect(watched.chat.status.store?.code).toBe('store');
  expect([...store.values.keys()].filter((key) => key.includes('/outgoing/'))).toEqual([]);
  store.loosen();
  await until(() => [...store.values.keys()].some((key) => key.endsWith(`/outgoing/${entry.key}`)), 'it is kept');
  await until(() => watched.chat.status.store === undefined, 'all is well');
  expect(watched.statuses.at(-1)).toEqual({ state: 'connected', transport: 'websocket' });
});

test('a file whose bytes never come does not keep a chat open', async () => {
  const server = await scripted();
  const watched = observe(server, { timing: { store: 50 } });
  await watched.connected();
  const gone = new Blob(['x']);
  gone.arrayBuffer = () => new Promise<never>(() => {});
  const entry = watched.chat.send({ to: 'bob', data: gone });
  await watched.chat.close();
  await expect(entry.sent).rejects.toMatchObject({ code: 'closed' });
});

/** Other code of the page, or another version of it, at the same database. */
function database(version?: number, upgrade?: (database: IDBDatabase) => void): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open('chat-system', version);
    request.onupgradeneeded = () => upgrade?.(request.result);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error('it is blocked'));
  });
}

test('an open page does not block a later version of its database', async () => {
  const store = await openStore('indexeddb');
  await store.set('a', 'one');
  const later = await database(2);
  expect(later.version).toBe(2);
  // It is not for this version any more: that is said, and nothing waits.
  await expect(store.get('a')).rejects.toMatchObject({ name: 'VersionError' });
  later.close();
});

test('a database that was deleted is opened again', async () => {
  const store = await openStore('indexeddb');
  await store.set('a', 'one');
  await new Promise<void>((resolve, reject) => {
    const request = indexedDB.deleteDatabase('chat-system');
    request.onsuccess = () => resolve();
    request.onblocked = () => reject(new Error('it is blocked'));
  });
  expect(await store.get('a')).toBeUndefined();
  await store.set('a', 'two');
  expect(await store.get('a')).toBe('two');
});

test('a database that the browser closes is opened again, also for what is under way', async () => {
  const opened: IDBDatabase[] = [];
  const open = indexedDB.open.bind(indexedDB);
  vi.spyOn(indexedDB, 'open').mockImplementation((...args) => {
    const request = open(...args);
    request.addEventListener('success', () => opened.push(request.result));
    return request;
  });
  const store = await openStore('indexeddb');
  await store.set('a', 'one');
  const under = store.set('b', 'two');
  forceCloseDatabase(opened[0] as never);
  await under;
  expect([await store.get('a'), await store.get('b')]).toEqual(['one', 'two']);
  // Closed without a word.
  opened.at(-1)!.close();
  expect(await store.get('b')).toBe('two');
});

test('signing out leaves nothing of the user in the store, and all of the others', async () => {
  const server = await scripted();
  const store = shelf();
  server.judge = ({ name }) => (name === 'send' ? problem('overloaded', 503, { retry_after: 60 }) : undefined);
  const [alice, bob] = [observe(server, { store, after: 'e:0' }), observe(server, { store, after: 'e:0', token: tokenOf('bob') })];
  for (const { chat } of [alice, bob]) chat.send({ to: 'carol', text: 'mine' });
  await until(() => [...store.values.keys()].filter((key) => key.includes('/outgoing/')).length === 2, 'both are kept');
  await alice.chat.close({ forget: true });
  const keys = [...store.values.keys()];
  expect(keys.filter((key) => key.includes(' alice/'))).toEqual([]);
  expect(keys.filter((key) => key.includes(' bob/outgoing/')).length).toBe(1);
});

test("what is kept of a user is none of another's whose id begins with his, and a slash", async () => {
  const server = await scripted();
  const store = shelf();
  server.judge = ({ name }) => (name === 'send' ? problem('overloaded', 503, { retry_after: 60 }) : undefined);
  const other = observe(server, { store, token: tokenOf('alice/outgoing') });
  other.chat.send({ to: 'bob', text: 'not of alice' });
  await until(() => [...store.values.keys()].some((key) => key.includes('/outgoing/')), 'it is kept');
  await other.chat.close();
  const alice = observe(server, { store });
  await alice.connected();
  expect(alice.chat.outgoing()).toEqual([]);
});

test.each(['polling', 'sse', 'long-poll'] as const)('users of one program that has locks, as Node 24 has, have a connection each, over %s', async (rung) => {
  vi.stubGlobal('navigator', { locks: new Locks() });
  const server = await scripted();
  const users = Array.from({ length: 8 }, (_, index) => observe(server, { token: tokenOf(`user-${index}`), transports: [rung], store: index % 2 ? 'memory' : 'indexeddb', timing: { poll: 25_000 } }));
  for (const user of users) await user.connected();
  const since = Date.now();
  server.message('one');
  for (const user of users) await user.gave(['one']);
  // Nobody asks now and then in place of waiting: that would be five seconds.
  expect(Date.now() - since).toBeLessThan(2000);
});

test('a store in memory has no other tabs to ask for', async () => {
  const locks = new Locks();
  const request = vi.spyOn(locks, 'request');
  vi.stubGlobal('navigator', { locks });
  vi.stubGlobal('indexedDB', undefined);
  const server = await scripted();
  for (const store of ['memory', 'indexeddb'] as const) await observe(server, { store }).connected();
  expect(request).not.toHaveBeenCalled();
});

test('the locks of tabs are of one server, one user and one store', async () => {
  const locks = new Locks();
  const request = vi.spyOn(locks, 'request');
  vi.stubGlobal('navigator', { locks });
  const server = await scripted();
  for (const store of ['local', 'indexeddb'] as const) {
    for (const user of ['alice', 'bob']) await observe(server, { store, token: tokenOf(user) }).connected();
  }
  const names = request.mock.calls.map(([name]) => name.split('/tab/')[0]);
  expect(new Set(names)).toEqual(new Set(['alice local', 'bob local', 'alice indexeddb', 'bob indexeddb'].map((of) => `chat-system ${server.url} ${of}`)));
});

test('locks that never answer keep nobody from a connection', async () => {
  vi.stubGlobal('navigator', { locks: { request: () => new Promise(() => {}) } });
  vi.stubGlobal('location', new URL('http://127.0.0.1/'));
  const server = await scripted();
  await observe(server, { transports: ['sse'] }).connected();
});

test('of two tabs that begin together, both have the place of the one before', async () => {
  const store = shelf();
  const fail = (cause: unknown) => {
    throw cause;
  };
  const place = { cursor: 'e:7', position: 7 };
  store.values.set('scope/cursor/old', JSON.stringify(place));
  const [first, second] = [new PlaceKeeper(store, 'scope', 'first', fail), new PlaceKeeper({ ...store, keys: late }, 'scope', 'second', fail)];
  let taken = false;
  /** What the second one has listed, the first one deletes before it is read. */
  async function late(prefix: string): Promise<string[]> {
    const keys = await store.keys(prefix);
    if (!taken) expect(await first.load()).toEqual(place);
    taken = true;
    return keys;
  }
  expect(await second.load()).toEqual(place);
  expect(taken).toBe(true);
});

test('where locks are refused, which they are with site data, everybody has a seat', async () => {
  const request = () => Promise.reject(new DOMException('site data is blocked', 'SecurityError'));
  vi.stubGlobal('navigator', { locks: { request } });
  vi.stubGlobal('location', new URL('http://127.0.0.1/'));
  const seats = new Seats('scope');
  expect(await seats.take()).toBeTypeOf('function');
  seats.close();
});

/** With and without what browsers have for tabs. */
const PLATFORMS: [string, () => void][] = [
  ['with Web Locks', () => vi.stubGlobal('navigator', { locks: new Locks() })],
  ['without Web Locks', () => {}],
  ['without Web Locks and BroadcastChannel', () => vi.stubGlobal('BroadcastChannel', undefined)],
];

describe.each(PLATFORMS)('tabs, %s', (name, platform) => {
  beforeEach(platform);

  const tab = (server: Scripted, options = {}): Observed => observe(server, { after: 'e:0', store: 'indexeddb', ...options });

  test('each gives everything once, and marks travel', async () => {
    const server = await scripted();
    const tabs = [tab(server), tab(server), tab(server)];
    await Promise.all(tabs.map((each) => each.connected()));
    const [one, two] = tabs;
    await one!.chat.send({ to: 'bob', text: 'from one' }).sent;
    await two!.chat.send({ to: 'bob', text: 'from two' }).sent;
    const message = server.message('from bob');
    await one!.chat.read(message);
    for (const each of tabs) {
      await each.gave(['from one', 'from two', 'from bob']);
      await until(() => each.receipts.length === 1, 'the mark has travelled');
      expect(each.receipts[0]).toMatchObject({ type: 'read', user_id: 'alice', up_to: { seq: 3 } });
    }
    expect(server.commands.filter(({ name }) => name === 'send').length).toBe(2);
  });

  test('they have one cursor: the next one goes on from the furthest', async () => {
    const server = await scripted();
    const [ahead, behind] = [tab(server), tab(server)];
    let release!: () => void;
    const held = new Promise<void>((resolve) => (release = resolve));
    behind.chat.on('message', ({ seq }) => (seq === 2 ? held : undefined));
    for (const text of ['one', 'two', 'three']) server.message(text);
    await ahead.gave(['one', 'two', 'three']);
    await until(() => behind.messages.length === 2, 'one lags behind');
    await ahead.chat.close();
    const next = tab(server);
    await next.connected();
    release();
    await until(() => behind.messages.length === 3, 'it has caught up');
    server.message('four');
    await behind.gave(['one', 'two', 'three', 'four']);
    await next.gave(['four']);
  });

  test('what a tab has left is sent by another, in its order', async () => {
    const server = await scripted();
    const dying = tab(server);
    const staying = tab(server);
    await Promise.all([dying.connected(), staying.connected()]);
    server.judge = () => problem('overloaded', 503, { retry_after: 60 });
    const entries = ['one', 'two', 'three'].map((text) => dying.chat.send({ to: 'bob', text }));
    const store = await openStore('indexeddb');
    const kept = async () => (await store.keys('')).filter((key) => key.includes('/outgoing/')).length;
    await until(async () => (await kept()) === 3, 'they are stored');
    await until(() => server.commands.length > 0, 'the first was tried');
    server.judge = () => undefined;
    server.commands.length = 0;
    await dying.chat.close();
    // Where nobody can tell that a tab is gone, the next one that begins finds what it has left.
    const heir = name === 'with Web Locks' ? staying : tab(server);
    await until(() => server.log.length === 3, 'they are sent');
    expect(server.commands.map(({ payload }: Asked) => payload['key'])).toEqual(entries.map(({ key }) => key));
    await until(async () => (await kept()) === 0 && heir.chat.outgoing().length === 0, 'nothing is left');
    await staying.gave(['one', 'two', 'three']);
  });

  test('what a living tab has in its queue is doubled by nobody', async () => {
    const server = await scripted();
    const writing = tab(server);
    await writing.connected();
    server.judge = () => problem('overloaded', 503, { retry_after: 0.05 });
    const entries = ['one', 'two', 'three'].map((text) => writing.chat.send({ to: 'bob', text }));
    await until(() => server.commands.length > 0, 'the first was tried');
    const beginning = tab(server);
    await beginning.connected();
    server.judge = () => undefined;
    await Promise.all(entries.map(({ sent }) => sent));
    await until(() => beginning.chat.outgoing().length === 0, 'it has nothing to send');
    expect(new Set(server.log.map(({ message }) => message!.text))).toEqual(new Set(['one', 'two', 'three']));
    expect(server.log.length).toBe(3);
    if (name === 'with Web Locks') expect(beginning.outgoing).toEqual([]);
  });
});
