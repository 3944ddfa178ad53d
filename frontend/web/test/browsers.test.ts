/** What other browsers, networks, clocks and readers do to the page. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Browser, Page } from 'playwright-core';
import { launch, person, Tab } from './harness/browser';
import { Proxy } from './harness/proxy';
import { Server, token } from './harness/server';

const LIMIT = 20_000;
const until = <T>(what: () => Promise<T>) => expect.poll(what, { timeout: LIMIT, interval: 50 });

let browser: Browser;
let server: Server;
let names = 0;
/** Somebody whom no other test has met. */
const somebody = (name: string) => `${name}-${(names += 1)}`;
beforeAll(async () => {
  [browser, server] = await Promise.all([launch(), Server.start('SQLite')]);
});
afterAll(async () => {
  await Promise.all([browser.close(), server.remove()]);
});

/** What a browser does without, or refuses: run in the page before its own scripts. */
const LACKS: [string, () => void][] = [
  [
    'of the oldest kind that the page is for',
    () => {
      const lacking: [object, string[]][] = [
        [URL, ['canParse', 'parse']],
        [Array.prototype, ['at', 'findLast', 'findLastIndex', 'toSorted', 'toReversed', 'toSpliced', 'with', 'group']],
        [String.prototype, ['at', 'isWellFormed', 'toWellFormed']],
        [Object.getPrototypeOf(Int8Array.prototype) as object, ['at', 'findLast', 'findLastIndex', 'toSorted', 'toReversed', 'with']],
        [Object, ['hasOwn', 'groupBy']],
        [Map, ['groupBy']],
        [Promise, ['withResolvers', 'try']],
        [Array, ['fromAsync']],
        [AbortSignal, ['any', 'timeout']],
        [AbortSignal.prototype, ['throwIfAborted']],
        [Crypto.prototype, ['randomUUID']],
        [Navigator.prototype, ['locks', 'userAgentData', 'scheduling']],
        [HTMLDialogElement.prototype, ['showModal', 'show', 'close']],
        [Blob.prototype, ['bytes']],
        [IDBTransaction.prototype, ['commit']],
        [IDBFactory.prototype, ['databases']],
        [window, ['BroadcastChannel', 'structuredClone', 'ResizeObserver', 'WeakRef', 'FinalizationRegistry', 'requestIdleCallback', 'scheduler', 'Iterator', 'SharedWorker']],
        [Intl, ['Segmenter', 'RelativeTimeFormat', 'ListFormat', 'DisplayNames', 'DurationFormat']],
      ];
      for (const [from, features] of lacking) for (const name of features) Reflect.deleteProperty(from, name);
    },
  ],
  [
    'whose locks and channels throw',
    () => {
      const refuse = () => {
        throw new DOMException('site data is blocked', 'SecurityError');
      };
      LockManager.prototype.request = refuse as never;
      BroadcastChannel.prototype.postMessage = refuse as never;
    },
  ],
  [
    'that refuses to say whether it has locks and channels',
    () => {
      const get = () => {
        throw new DOMException('site data is blocked', 'SecurityError');
      };
      Object.defineProperty(Navigator.prototype, 'locks', { configurable: true, get });
      Object.defineProperty(window, 'BroadcastChannel', { configurable: true, get });
    },
  ],
  [
    'that refuses every lock',
    () => {
      LockManager.prototype.request = (() => Promise.reject(new DOMException('not here', 'InvalidStateError'))) as never;
    },
  ],
  [
    'that keeps nothing',
    () => {
      const get = () => {
        throw new DOMException('site data is blocked', 'SecurityError');
      };
      for (const name of ['localStorage', 'sessionStorage', 'indexedDB']) Object.defineProperty(window, name, { configurable: true, get });
    },
  ],
  [
    'that has no more room',
    () => {
      Storage.prototype.setItem = () => {
        throw new DOMException('full', 'QuotaExceededError');
      };
    },
  ],
  [
    'whose language is none',
    () => {
      const refuse = class {
        constructor() {
          throw new RangeError('Incorrect locale information provided');
        }
      };
      for (const name of ['DateTimeFormat', 'NumberFormat', 'Collator', 'PluralRules', 'RelativeTimeFormat', 'Segmenter']) {
        Object.defineProperty(Intl, name, { configurable: true, value: refuse });
      }
      Date.prototype.toLocaleString = Date.prototype.toLocaleDateString = Date.prototype.toLocaleTimeString = () => {
        throw new RangeError('Incorrect locale information provided');
      };
    },
  ],
];

test.each(LACKS)('in a browser %s two people chat, with links, pictures and marks', { timeout: 60_000 }, async (_, lack) => {
  const [me, peer] = [somebody('old'), somebody('new')];
  await server.send(peer, me, 'see https://example.com/a and «https://example.com»');
  await server.send(peer, me, { data: PICTURE, type: 'image/png' });
  await server.send(peer, me, { data: Buffer.from('x'), type: "text/x; name*=UTF-8''a%C3%A9.txt" });
  const context = await person(browser);
  await context.addInitScript(lack);
  const tab = await Tab.signedIn(context, server.url, me);
  await until(() => tab.unread(peer)).toBe(3);
  await tab.openConversation(peer);
  await until(() => tab.page.locator('.text a').evaluateAll((all) => all.map((one) => (one as HTMLAnchorElement).href))).toEqual([
    'https://example.com/a',
    'https://example.com/',
  ]);
  await until(() => tab.unread(peer)).toBe(0);
  expect(await tab.page.locator('time').first().innerText()).toMatch(/\d/);
  await tab.say('an answer');
  await until(() => tab.marks()).toEqual(['sent']);
  await server.markRead(peer, me);
  await until(() => tab.marks()).toEqual(['read']);
  await server.send(peer, me, 'once more');
  await until(() => tab.texts()).toContain('once more');
  await tab.page.setViewportSize({ width: 700, height: 500 });
  await tab.page.getByRole('button', { name: /enlarge/ }).click();
  await tab.page.getByRole('dialog').waitFor();
  await tab.page.getByRole('button', { name: 'Close' }).click();
  await until(() => tab.page.getByRole('dialog').count()).toBe(0);
  // With a draft it asks, in a box where there are no dialogs.
  await tab.composer.fill('begun');
  if ((tab.page.viewportSize()?.width ?? 0) < 704) await tab.page.getByRole('button', { name: 'Back to the conversations' }).click();
  await tab.page.getByRole('button', { name: 'Sign out' }).click();
  const leave = tab.page.getByRole('button', { name: 'Remove it and leave' });
  await leave.or(tab.page.getByLabel('Token', { exact: true })).first().waitFor();
  if ((await leave.count()) > 0) await leave.click();
  await tab.page.getByLabel('Token', { exact: true }).waitFor();
  expect(tab.failures).toEqual([]);
  await context.close();
});

/** The smallest PNG: one red point. */
const PICTURE = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==',
  'base64',
);

test('a message that cannot be drawn is left out alone, and the conversation goes on', { timeout: 60_000 }, async () => {
  const [me, peer, other] = [somebody('me'), somebody('peer'), somebody('other')];
  for (const text of ['before', 'the bad one', 'after']) await server.send(peer, me, text);
  await server.send(other, me, 'fine');
  const context = await person(browser);
  // What the page does with a text throws for this one.
  await context.addInitScript(() => {
    const { matchAll } = String.prototype;
    String.prototype.matchAll = function (this: string, pattern: RegExp) {
      if (this.toString() === 'the bad one') throw new TypeError('there is no such function');
      return matchAll.call(this, pattern);
    } as typeof matchAll;
  });
  const tab = await Tab.signedIn(context, server.url, me);
  await tab.openConversation(peer);
  await until(() => tab.texts()).toEqual(['before', 'after']);
  await until(() => tab.page.locator('.message .erased').allInnerTexts()).toEqual(['This browser cannot show this message.']);
  await until(() => tab.unread(peer)).toBe(0);
  await tab.say('it goes on');
  await until(() => tab.texts()).toEqual(['before', 'after', 'it goes on']);
  await until(() => tab.marks()).toEqual(['sent']);
  await tab.openConversation(other);
  await until(() => tab.texts()).toEqual(['fine']);
  await context.close();
});

test('a page that breaks as a whole says so', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  await context.addInitScript(() => {
    // The first thing that the list of conversations needs and nothing before it.
    addEventListener('DOMContentLoaded', () => {
      CSS.escape = () => {
        throw new TypeError('it is gone');
      };
      Object.defineProperty(Document.prototype, 'title', {
        set() {
          throw new TypeError('it is gone');
        },
      });
    });
  });
  const tab = await Tab.open(context, server.url);
  await tab.page.getByLabel('Token', { exact: true }).fill(token(somebody('broken')));
  await tab.page.getByRole('button', { name: 'Sign in', exact: true }).click();
  await until(() => tab.page.getByRole('alert').innerText()).toContain('Something is broken');
  await tab.page.getByRole('button', { name: 'Load it again' }).waitFor();
  await context.close();
});

test.each([
  ['ahead', 1],
  ['behind', -1],
])('a clock that is two days %s refuses no good token', { timeout: 60_000 }, async (_, direction) => {
  const me = somebody('clock');
  const context = await person(browser);
  await context.addInitScript((wrong) => {
    const { now } = Date;
    Date.now = () => now() + wrong;
  }, direction * 2 * 86_400_000);
  const tab = await Tab.signedIn(context, server.url, me);
  await until(async () => (await tab.state()).state).toBe('connected');
  await tab.start(somebody('peer'));
  await tab.say('in time');
  await until(() => tab.marks()).toEqual(['sent']);
  await tab.page.reload();
  await until(async () => (await tab.state()).state).toBe('connected');
  await until(() => tab.texts()).toEqual(['in time']);
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('on a phone that is offline the open conversation says so, and its marks are drawn', { timeout: 60_000 }, async () => {
  const [me, peer] = [somebody('phone'), somebody('peer')];
  const context = await person(browser, { phone: true });
  const proxy = await Proxy.before(server.port);
  const asked: string[] = [];
  const tab = await Tab.signedIn(context, proxy.url, me);
  await tab.start(peer);
  await until(async () => (await tab.state()).state).toBe('connected');
  const { page } = tab;
  const trouble = page.locator('.conversation .trouble');
  expect(await trouble.innerText()).toBe('');
  page.on('request', (request) => asked.push(new URL(request.url()).pathname));
  await context.setOffline(true);
  proxy.blockDoors = true;
  proxy.cut();
  await until(() => trouble.innerText()).toContain('No connection');
  expect(await trouble.isVisible()).toBe(true);
  await tab.composer.fill('written offline');
  await tab.page.getByRole('button', { name: 'Send', exact: true }).click();
  await until(() => tab.marks()).toEqual(['pending']);
  // It is something, and not all of its box.
  const drawn = async (state: string): Promise<number> => {
    const [first, ...others] = await pixels(page, await page.locator(`.message .mark.${state}`).first().screenshot());
    return others.filter((pixel) => Math.abs(pixel - (first ?? 0)) > 60).length / others.length;
  };
  for (const state of ['pending', 'failed', 'sent', 'delivered', 'read']) {
    await page.locator('.message .mark').first().evaluate((mark, state) => mark.setAttribute('class', `mark ${state}`), state);
    const part = await drawn(state);
    expect(part, state).toBeGreaterThan(0.03);
    expect(part, state).toBeLessThan(0.6);
  }
  expect(asked.filter((path) => path.startsWith('/assets/'))).toEqual([]);
  // What went wrong without anybody waiting for it is in view as well, once.
  expect(await page.locator('.side').isVisible()).toBe(false);
  await context.setOffline(false);
  proxy.blockDoors = false;
  await until(() => trouble.innerText()).toBe('');
  await until(() => server.texts(me, peer)).toEqual(['written offline']);
  await context.close();
  await proxy.close();
});

/** The brightness of each pixel, 0 to 765. */
const pixels = (page: Page, picture: Buffer): Promise<number[]> =>
  page.evaluate(async (picture) => {
    const bytes = Uint8Array.from(atob(picture), (char) => char.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d');
    canvas?.drawImage(bitmap, 0, 0);
    const data = canvas?.getImageData(0, 0, bitmap.width, bitmap.height).data ?? new Uint8ClampedArray();
    return Array.from({ length: data.length / 4 }, (_, n) => (data[4 * n] ?? 0) + (data[4 * n + 1] ?? 0) + (data[4 * n + 2] ?? 0));
  }, picture.toString('base64'));

/** Does what a browser that translates does: each text node becomes an element in an element, unless it is not to be translated. */
function translate(): void {
  const wrap = (node: Text) => {
    const parent = node.parentElement;
    if (!parent || parent.closest('font, [translate="no"], script, style, textarea') || node.data.trim() === '') return;
    const [outer, inner] = [document.createElement('font'), document.createElement('font')];
    inner.append(document.createTextNode(node.data));
    outer.append(inner);
    node.replaceWith(outer);
  };
  const all = (root: Node) => {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    const nodes: Text[] = [];
    while (walker.nextNode()) nodes.push(walker.currentNode as Text);
    if (root instanceof Text) nodes.push(root);
    nodes.forEach(wrap);
  };
  addEventListener('DOMContentLoaded', () => {
    all(document.body);
    new MutationObserver((changes) => changes.forEach(({ type, target, addedNodes }) => (type === 'characterData' ? all(target) : addedNodes.forEach(all)))).observe(
      document.body,
      { subtree: true, childList: true, characterData: true },
    );
  });
}

test('a page that the browser translates goes on showing what one that is not translated shows', { timeout: 60_000 }, async () => {
  const [me, peer, other] = [somebody('reader'), somebody('peer'), somebody('other')];
  const proxy = await Proxy.before(server.port);
  const plain = await person(browser);
  const translated = await person(browser);
  await translated.addInitScript(translate);
  const one = await Tab.signedIn(plain, proxy.url, me);
  const two = await Tab.signedIn(translated, proxy.url, me);
  const said = (tab: Tab) => tab.page.evaluate(() => document.body.innerText.replace(/\s+/g, ' '));
  const both = async (what: string, does: (tab: Tab) => Promise<unknown>) => {
    for (const tab of [one, two]) await does(tab);
    for (let tries = 0; ; tries += 1) {
      const [as, is] = [await said(one), await said(two)];
      if (as === is) break;
      if (tries > 100) expect(is, what).toBe(as);
      await two.page.waitForTimeout(50);
    }
  };
  await both('nothing yet', async (tab) => until(() => said(tab)).toContain('No conversations yet'));
  await server.send(peer, me, 'the first message');
  await both('a new conversation', (tab) => until(() => tab.unread(peer)).toBe(1));
  await server.send(peer, me, 'the second, see https://example.com/ there');
  await both('a new count', (tab) => until(() => said(tab)).toContain('the second, see'));
  // Both are alike when they are opened one after the other.
  await server.markRead(me, peer);
  await both('it is read', (tab) => until(() => tab.unread(peer)).toBe(0));
  await both('a conversation', async (tab) => {
    await tab.page.bringToFront();
    await tab.openConversation(peer);
    await until(() => tab.texts()).toEqual(['the first message', 'the second, see https://example.com/ there']);
  });
  expect(await two.page.locator('font').count()).toBeGreaterThan(5);
  await server.send(peer, me, 'the third');
  await both('a message', (tab) => until(() => tab.texts()).toContain('the third'));
  await one.say('my answer');
  await both('one’s own', (tab) => until(() => tab.texts()).toContain('my answer'));
  await both('the mark of it', (tab) => until(() => tab.marks()).toEqual(['sent']));
  await server.markRead(peer, me);
  await both('read', (tab) => until(() => tab.marks()).toEqual(['read']));
  await server.send(peer, me, 'long '.repeat(1000));
  await both('a long one', (tab) => until(() => said(tab)).toContain('Show all'));
  await both('unfolded', (tab) => tab.page.getByRole('button', { name: /Show all/ }).click());
  await both('folded', (tab) => tab.page.getByRole('button', { name: 'Show less' }).click());
  await server.send(other, me, 'from somebody else');
  await both('another conversation', (tab) => until(() => said(tab)).toContain('from somebody else'));
  await server.send(other, me, 'and again');
  await both('its last message and count', (tab) => until(() => said(tab)).toContain('and again'));
  for (const [what, size] of [
    ['first.bin', 300_000],
    ['second.bin', 500_000],
  ] as const) {
    await both(`${what} is refused`, async (tab) => {
      await tab.page.locator('[data-files]').setInputFiles({ name: what, mimeType: '', buffer: Buffer.alloc(size) });
      await until(() => said(tab)).toContain(what);
    });
  }
  expect(await said(two)).not.toContain('first.bin');
  await both('nobody to begin with', async (tab) => {
    await tab.page.getByRole('button', { name: 'Start a conversation' }).click();
    await tab.page.getByLabel('With whom?').fill('?');
    await tab.page.keyboard.press('Enter');
    await until(() => said(tab)).toContain('That is no user id');
    await tab.page.getByLabel('With whom?').fill('fine');
    await until(() => said(tab)).not.toContain('That is no user id');
    await tab.page.keyboard.press('Escape');
  });
  proxy.blockDoors = true;
  proxy.cut();
  await both('no connection', (tab) => until(async () => ((await said(tab)).includes('No connection') ? 'yes' : 'no')).toBe('yes'));
  proxy.blockDoors = false;
  await both('connected again', (tab) => until(async () => (await tab.state()).state).toBe('connected'));
  await both('an empty one', async (tab) => {
    await tab.page.goto(`${proxy.url}#${me}-nobody`);
    await until(() => said(tab)).toContain('No messages yet');
  });
  expect(one.failures.concat(two.failures)).toEqual([]);
  await plain.close();
  await translated.close();
  await proxy.close();
});

test('stacked marks paint over nothing but their own message', { timeout: 60_000 }, async () => {
  const [me, peer] = [somebody('painted'), somebody('painter')];
  const marks = String.fromCodePoint(...Array.from({ length: 60 }, (_, n) => 0x300 + (n % 0x60))).repeat(5);
  const stacked = [...'STACKED'].map((char) => char + marks).join('');
  for (const text of ['above', stacked, 'below', 'and more']) await server.send(peer, me, text);
  await server.send(peer, me, { data: Buffer.from('x'), type: `text/x; name*=UTF-8''${encodeURIComponent(`a${marks.slice(0, 4)}.txt`)}` });
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, me);
  await tab.openConversation(peer);
  await until(() => tab.messages.count()).toBe(5);
  const { page } = tab;
  await until(() => tab.unread(peer)).toBe(0);
  // Whole pixels of it.
  const picture = async (index: number): Promise<number[]> => {
    const { x, y, width, height } = (await page.locator('.message').nth(index).boundingBox()) ?? { x: 0, y: 0, width: 0, height: 0 };
    return pixels(page, await page.screenshot({ clip: { x, y: Math.ceil(y), width, height: Math.floor(y + height) - Math.ceil(y) } }));
  };
  const bad = page.locator('.message').nth(1).locator('.text');
  const shown = [await picture(0), await picture(2)];
  const own = await picture(1);
  await bad.evaluate((text: HTMLElement) => (text.style.visibility = 'hidden'));
  // The neighbours look the same without it; it itself does not.
  const different = (one: number[], other: number[] = []) => one.filter((pixel, at) => Math.abs(pixel - (other[at] ?? 0)) > 60).length;
  expect(different(await picture(1), own)).toBeGreaterThan(100);
  for (const [at, index] of [0, 2].entries()) expect(different(await picture(index), shown[at]), `neighbour ${index}`).toBe(0);
  // Neither does it grow beyond its line.
  expect(await page.locator('.message').nth(1).evaluate((row) => row.getBoundingClientRect().height)).toBeLessThan(80);
  await context.close();
});
