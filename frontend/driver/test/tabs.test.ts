/** Stores, and the tabs that share one. */
import 'fake-indexeddb/auto';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import type { Observed } from './support/observed.js';
import { PlaceKeeper } from '../src/place.js';
import { Seats } from '../src/seats.js';
import { openStore } from '../src/store.js';
import { observe, scripted, shelf, until } from './support/observed.js';
import { Locks } from './support/locks.js';
import { problem, type Asked, type Scripted } from './support/scripted.js';

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
