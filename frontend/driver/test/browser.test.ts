/** In Chromium, where the stores, the locks and the workers are real. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import type { BrowserContext, Page } from 'playwright-core';
import { expect, test } from 'vitest';

import type { Chat, Message } from '../src/index.js';
import { browser, IN_A_BROWSER } from './support/browser.js';
import { observe, until } from './support/observed.js';
import { Proxy } from './support/proxy.js';
import { Real, tokenFor } from './support/real.js';

declare global {
  // What a page of these tests has.
  var chat: Chat;
  var given: string[];
}

const PAGE = `<!doctype html><meta charset="utf-8"><title>x</title><script type="module">
  import { connect } from './client.js';
  const options = JSON.parse(decodeURIComponent(location.hash.slice(1)));
  window.given = [];
  window.chat = connect({ url: location.origin, ...options });
  chat.on('message', (message) => given.push(message.text));
  chat.on('receipt', ({ type, user_id, up_to }) => given.push(type + ' ' + user_id + ' ' + up_to.seq));
  chat.on('loaded', ({ conversations }) => given.push('loaded ' + conversations.length));
</script>`;

async function site(): Promise<{ server: Real; proxy: Proxy; context: BrowserContext; tab(options: object): Promise<Page> }> {
  const server = await Real.start();
  const proxy = await Proxy.before(server);
  const client = readFileSync(fileURLToPath(new URL('../dist/chat-system-client.js', import.meta.url)));
  proxy.files.set('/page', { type: 'text/html', body: PAGE });
  proxy.files.set('/client.js', { type: 'text/javascript', body: client });
  const { context, newPage } = await browser();
  const tab = async (options: object) => {
    const page = await newPage();
    await page.goto(`${proxy.url}/page#${encodeURIComponent(JSON.stringify({ token: tokenFor('alice'), ...options }))}`);
    await page.waitForFunction(() => 'chat' in globalThis);
    return page;
  };
  return { server, proxy, context, tab };
}

const things = (page: Page) => page.evaluate(() => given);
const gave = (page: Page, all: string[]) =>
  until(async () => JSON.stringify(await things(page)) === JSON.stringify(all), `the page was given ${all}`);
const state = (page: Page) => page.evaluate(() => `${chat.status.state} ${chat.status.transport ?? ''}`);

/** How many messages both stores have. */
function kept(page: Page): Promise<number> {
  return page.evaluate(async () => {
    const database = await new Promise<IDBDatabase>((resolve) => {
      const request = indexedDB.open('chat-system', 1);
      request.onupgradeneeded = () => request.result.createObjectStore('values');
      request.onsuccess = () => resolve(request.result);
    });
    const keys = await new Promise<IDBValidKey[]>((resolve) => {
      const request = database.transaction('values').objectStore('values').getAllKeys();
      request.onsuccess = () => resolve(request.result);
    });
    database.close();
    return [...Object.keys(localStorage), ...keys].filter((key) => String(key).includes('/outgoing/')).length;
  });
}

test.each(['local', 'indexeddb'])('two tabs and one user, with the store %s: both right, marks travel, one takes over from the other', IN_A_BROWSER, async (store) => {
  const { server, proxy, tab } = await site();
  const timing = { retry: 20, retryMax: 100 };
  const [one, two] = [await tab({ store, after: '0', timing }), await tab({ store, after: '0', timing })];
  const bob = observe(server, { token: tokenFor('bob'), after: '0' });
  await one.evaluate(() => chat.send({ to: 'bob', text: 'from one' }).sent);
  await two.evaluate(() => chat.send({ to: 'bob', text: 'from two' }).sent);
  await until(() => bob.messages.length === 2, 'bob has both');
  await bob.chat.read(bob.messages[1]!);
  const read = await bob.chat.send({ to: 'alice', text: 'from bob' }).sent;
  await two.evaluate((message: Message) => chat.read(message), read);
  const all = ['from one', 'from two', 'read bob 2', 'from bob', 'read alice 3'];
  for (const page of [one, two]) await gave(page, all);

  // One writes without a network, and is closed; the other sends it.
  proxy.rules = { offline: true };
  proxy.cut();
  await one.evaluate(() => {
    for (const text of ['left 1', 'left 2', 'left 3']) chat.send({ to: 'bob', text });
  });
  await until(() => one.evaluate(() => chat.outgoing().length === 3), 'they are in the queue');
  await until(async () => (await kept(one)) === 3, 'they are in the store');
  await one.close();
  proxy.rules = {};
  await until(() => bob.messages.length >= 6, 'bob has them');
  expect(bob.texts).toEqual(['from one', 'from two', 'from bob', 'left 1', 'left 2', 'left 3']);
  await gave(two, [...all, 'left 1', 'left 2', 'left 3']);

  // The next one goes on from the one cursor of both.
  const three = await tab({ store, timing });
  await until(async () => (await state(three)).startsWith('connected'), 'it is connected');
  await bob.chat.send({ to: 'alice', text: 'last' }).sent;
  await gave(three, ['last']);
});

test.each([
  [{}, 'websocket'],
  [{ websocket: 'refused' }, 'polling'],
  [{ socketIo: 'refused' }, 'sse'],
  [{ socketIo: 'refused', holdsBack: 65536 }, 'long-poll'],
] as const)('in a browser behind a network of %j it is by %s, and unblocked by websocket', IN_A_BROWSER, async (rules, transport) => {
  const { server, proxy, tab } = await site();
  proxy.rules = rules;
  const timing = { ready: 3000, silence: 3000, poll: 2000, climb: 100, climbMax: 500 };
  const page = await tab({ after: '0', timing });
  await until(async () => (await state(page)) === `connected ${transport}`, `it is by ${transport}`);
  const bob = observe(server, { token: tokenFor('bob') });
  await bob.chat.send({ to: 'alice', text: 'one' }).sent;
  await gave(page, ['one']);
  proxy.rules = {};
  await until(async () => (await state(page)) === 'connected websocket', 'it is at the top');
  await bob.chat.send({ to: 'alice', text: 'two' }).sent;
  await gave(page, ['one', 'two']);
});

test.each([
  ['polling', { websocket: 'refused' }],
  ['sse', { socketIo: 'refused' }],
  ['long-poll', { socketIo: 'refused', holdsBack: 65536 }],
] as const)('more tabs than a browser has connections for a host, by %s', IN_A_BROWSER, async (_, rules) => {
  const { server, proxy, tab } = await site();
  proxy.rules = rules;
  const tabs: Page[] = [];
  for (let index = 0; index < 8; index++) tabs.push(await tab({ store: 'indexeddb', after: '0' }));
  for (const page of tabs) await until(async () => (await state(page)).startsWith('connected'), 'it is connected');
  const bob = observe(server, { token: tokenFor('bob'), after: '0' });
  await bob.chat.send({ to: 'alice', text: 'to all' }).sent;
  for (const page of tabs) await gave(page, ['to all']);
  for (const page of tabs) await page.evaluate(() => chat.send({ to: 'bob', text: 'from one of them' }).sent);
  await until(() => bob.messages.length === 9, 'bob has them');
  for (const page of tabs) await gave(page, ['to all', ...tabs.map(() => 'from one of them')]);
  // Those that wait are closed; others wait in their place.
  for (const page of tabs.splice(0, 4)) await page.close();
  await bob.chat.send({ to: 'alice', text: 'to those left' }).sent;
  for (const page of tabs) await until(async () => (await things(page)).at(-1) === 'to those left', 'it is given');
});

test.each(['websocket', 'polling', 'sse', 'long-poll'])('in a web worker, over %s', IN_A_BROWSER, async (transport) => {
  const { server, proxy, tab } = await site();
  const worker = `
    import { connect } from './client.js';
    onmessage = ({ data }) => {
      const chat = connect({ url: location.origin, ...data });
      chat.on('message', (message) => postMessage(message.text));
      chat.on('status', ({ state }) => state === 'connected' && chat.send({ to: 'bob', text: 'from a worker' }));
    };`;
  proxy.files.set('/worker.js', { type: 'text/javascript', body: worker });
  const page = await tab({});
  const bob = observe(server, { token: tokenFor('bob'), after: '0' });
  const text = page.evaluate(
    (options) =>
      new Promise((resolve) => {
        const worker = new Worker('./worker.js', { type: 'module' });
        worker.onmessage = ({ data }) => resolve(data);
        worker.postMessage(options);
      }),
    { token: tokenFor('alice'), transports: [transport], store: 'indexeddb', after: '0' },
  );
  expect(await text).toBe('from a worker');
  await bob.gave(['from a worker']);
});

test.each([
  ['websocket', {}],
  ['polling', { websocket: 'refused' }],
  ['sse', { socketIo: 'refused' }],
  ['long-poll', { socketIo: 'refused', holdsBack: 65536 }],
] as const)('a page that was left and is come back to hears at once what it missed, by %s', IN_A_BROWSER, async (transport, rules) => {
  const { server, proxy, tab } = await site();
  proxy.rules = rules;
  proxy.files.set('/elsewhere', { type: 'text/html', body: '<!doctype html><title>elsewhere</title>' });
  // The usual patience with silence: what comes sooner is not owed to it.
  const page = await tab({ after: '0', store: 'indexeddb', timing: { ready: 3000 } });
  await until(async () => (await state(page)) === `connected ${transport}`, 'it is connected');
  await page.evaluate(() => {
    window.addEventListener('pageshow', ({ persisted }) => given.push(`persisted ${persisted}`));
  });
  const bob = observe(server, { token: tokenFor('bob') });
  await page.goto(`${proxy.url}/elsewhere`);
  await bob.chat.send({ to: 'alice', text: 'meanwhile' }).sent;
  const since = Date.now();
  // A page out of the cache is not loaded again.
  await page.goBack({ waitUntil: 'commit' });
  await until(async () => (await things(page)).includes('persisted true'), 'it is the same page');
  await until(async () => (await things(page)).includes('meanwhile'), 'it is given');
  expect(Date.now() - since).toBeLessThan(8000);
  await bob.chat.send({ to: 'alice', text: 'now' }).sent;
  await until(async () => (await things(page)).at(-1) === 'now', 'it is live');
});

test('a transaction of another page that never ends stops nothing, and that is said until it ends', IN_A_BROWSER, async () => {
  const { server, tab } = await site();
  const other = await tab({ store: 'indexeddb', userId: 'alice' });
  await until(async () => (await state(other)).startsWith('connected'), 'it is connected');
  await other.evaluate(
    () =>
      new Promise<void>((begun) => {
        const opening = indexedDB.open('chat-system');
        opening.onsuccess = () => {
          const table = opening.result.transaction('values', 'readwrite').objectStore('values');
          // A request after the other keeps it open.
          const on = () => {
            if (!('over' in globalThis)) table.get('x').onsuccess = on;
          };
          on();
          begun();
        };
      }),
  );
  const page = await tab({ store: 'indexeddb', timing: { store: 1000 } });
  await until(async () => (await state(page)).startsWith('connected'), 'it is connected');
  expect(await page.evaluate(() => chat.status.store?.code)).toBe('store');
  const bob = observe(server, { token: tokenFor('bob'), after: '0' });
  await page.evaluate(() => chat.send({ to: 'bob', text: 'without a store' }).sent);
  await bob.gave(['without a store']);
  await other.evaluate(() => void Object.assign(globalThis, { over: true }));
  await page.evaluate(() => chat.send({ to: 'bob', text: 'with it again' }).sent);
  await until(() => page.evaluate(() => chat.status.store === undefined), 'it keeps things again');
  await page.evaluate(() => chat.close());
});

test('a later version of the database is not blocked, and cleared data is no end of it', IN_A_BROWSER, async () => {
  const { context, proxy, tab } = await site();
  const page = await tab({ store: 'indexeddb', after: '0' });
  await until(async () => (await state(page)).startsWith('connected'), 'it is connected');
  const devtools = await context.newCDPSession(page);
  await devtools.send('Storage.clearDataForOrigin', { origin: proxy.url, storageTypes: 'indexeddb' });
  proxy.rules = { offline: true };
  proxy.cut();
  await page.evaluate(() => void chat.send({ to: 'bob', text: 'kept' }));
  await until(async () => (await kept(page)) === 1, 'it is kept');
  const version = await page.evaluate(
    () =>
      new Promise((resolve) => {
        const later = indexedDB.open('chat-system', 2);
        later.onblocked = () => resolve('blocked');
        later.onsuccess = () => resolve(later.result.version);
      }),
  );
  expect(version).toBe(2);
});
