/** What somebody types, pastes and leaves behind: which keys send, what is kept, and what signing out takes away. */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { launch, person, Tab } from './harness/browser';
import { Proxy } from './harness/proxy';
import { Server, token } from './harness/server';

const LIMIT = 20_000;
const CONTENT_LIMIT = 20_000;
const until = <T>(what: () => Promise<T>) => expect.poll(what, { timeout: LIMIT, interval: 50 });
const SECRET = 'nobody else may read this';

let browser: Browser;
let server: Server;
beforeAll(async () => {
  [browser, server] = await Promise.all([launch(), Server.start('SQLite', { settings: { CHAT_CONTENT_LIMIT: String(CONTENT_LIMIT) } })]);
});
afterAll(async () => {
  await Promise.all([browser.close(), server.remove()]);
});

/** A key as a browser tells it that is not this one. True if the page took it. */
const key = (page: Page, selector: string, name: string, more: KeyboardEventInit & { keyCode?: number } = {}): Promise<boolean> =>
  page.locator(selector).evaluate(
    (element: Element, { name, more }: { name: string; more: KeyboardEventInit & { keyCode?: number } }): boolean => {
      const event = new KeyboardEvent('keydown', { key: name, bubbles: true, cancelable: true, ...more });
      if (more.keyCode !== undefined) Object.defineProperty(event, 'keyCode', { value: more.keyCode });
      return !element.dispatchEvent(event);
    },
    { name, more } as never,
  );

/** Everything that the browser keeps for the page. */
const stored = (page: Page): Promise<string> =>
  page.evaluate(async () => {
    const values: unknown[] = [{ ...localStorage }, { ...sessionStorage }];
    for (const { name = '' } of await indexedDB.databases()) {
      const database = await new Promise<IDBDatabase>((resolve, reject) => {
        const request = indexedDB.open(name);
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
      for (const table of database.objectStoreNames) {
        const store = database.transaction(table).objectStore(table);
        for (const request of [store.getAll(), store.getAllKeys()]) {
          values.push(await new Promise((resolve) => (request.onsuccess = () => resolve(request.result))));
        }
      }
      database.close();
    }
    return JSON.stringify(values);
  });

async function signIn(tab: Tab, userId: string): Promise<void> {
  await tab.page.getByLabel('Token', { exact: true }).fill(token(userId));
  await tab.page.getByRole('button', { name: 'Sign in', exact: true }).click();
  await tab.page.getByRole('navigation', { name: 'Conversations' }).waitFor();
}

/** Media queries as another machine answers them. */
const pointers = (context: BrowserContext, fits: Record<string, boolean>): Promise<unknown> =>
  context.addInitScript((fits) => {
    const real = window.matchMedia.bind(window);
    window.matchMedia = (query) => {
      const parts = query.split(' and ').map((part) => fits[part.trim()]);
      if (parts.some((part) => part === undefined)) return real(query);
      return { ...real('all'), matches: parts.every(Boolean), media: query } as MediaQueryList;
    };
  }, fits);
const TABLET = { '(pointer: fine)': false, '(pointer: coarse)': true, '(any-pointer: coarse)': true, '(hover: hover)': false };

test('a key that an input method takes is none for the page, however the browser says so', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, 'ime');
  const { page } = tab;
  await tab.start('other');
  await tab.composer.fill('にほん');
  // Chrome and Firefox say the first, Safari the second, which has ended the composition by then.
  for (const composing of [{ isComposing: true }, { isComposing: false, keyCode: 229 }]) {
    for (const name of ['Enter', 'Escape']) {
      for (const more of [{}, { ctrlKey: true }, { metaKey: true }]) {
        expect(await key(page, 'textarea', name, { ...composing, ...more, code: name })).toBe(false);
      }
    }
    expect(await tab.composer.inputValue()).toBe('にほん');
    expect(await page.evaluate(() => location.hash)).toBe('#other');
  }
  expect(await tab.messages.count()).toBe(0);
  // The field with whom to begin.
  await page.getByRole('button', { name: 'Start a conversation' }).click();
  await page.getByLabel('With whom?').fill('somebody');
  for (const composing of [{ isComposing: true }, { keyCode: 229 }]) {
    await key(page, '#with', 'Escape', composing);
    // It is kept from submitting the form, which it does in Safari.
    expect(await key(page, '#with', 'Enter', composing)).toBe(true);
  }
  expect(await page.getByLabel('With whom?').inputValue()).toBe('somebody');
  await key(page, '#with', 'Escape');
  await until(() => page.locator('#with').count()).toBe(0);
  // And that of the token.
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('button', { name: 'Remove it and leave' }).click();
  await page.getByLabel('Token', { exact: true }).fill('nonsense');
  await key(page, '#token', 'Enter', { keyCode: 229 });
  expect(await page.locator('#failure').textContent()).toBe('');
  await key(page, '#token', 'Enter');
  await until(() => page.getByRole('alert').innerText()).toContain('That is no token');
  expect(tab.failures).toEqual([]);
  await context.close();
});

test.each([
  ['a desk', {}, true],
  ['a tablet', { ...TABLET, '(any-pointer: fine)': false }, false],
  ['a tablet with a pen', { ...TABLET, '(any-pointer: fine)': true }, false],
  ['a tablet whose pen can hover', { ...TABLET, '(any-pointer: fine)': true, '(hover: hover)': true }, false],
])('on %s Enter alone is a line or sends, and with Ctrl or Cmd it sends', { timeout: 60_000 }, async (what, fits, alone) => {
  const [me, peer] = [`${what}`.replace(/ /g, '-'), `${what}-peer`.replace(/ /g, '-')].map((name) => name.slice(-31)) as [string, string];
  const context = await person(browser);
  await pointers(context, fits);
  const tab = await Tab.signedIn(context, server.url, me);
  await tab.start(peer);
  const said: string[] = [];
  for (const combination of ['Control+Enter', 'Meta+Enter']) {
    await tab.composer.fill(combination);
    await tab.composer.press(combination);
    said.push(combination);
    await until(() => tab.texts()).toEqual(said);
    expect(await tab.composer.inputValue()).toBe('');
  }
  await tab.composer.fill('alone');
  await tab.composer.press('Enter');
  if (alone) said.push('alone');
  else expect(await tab.composer.inputValue()).toBe('alone\n');
  for (const combination of ['Shift+Enter', 'Alt+Enter']) await tab.composer.press(combination);
  await tab.composer.fill('the last');
  await tab.composer.press('Control+Enter');
  said.push('the last');
  await until(() => server.texts(me, peer)).toEqual(said);
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('where there is a mouse and a touch screen, Enter on the keyboard of the screen is a new line', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, 'hybrid');
  await tab.start('hybrid-peer');
  await tab.composer.fill('text');
  for (const pointerType of ['touch', 'pen']) {
    await tab.composer.evaluate((element, pointerType) => element.dispatchEvent(new PointerEvent('pointerdown', { bubbles: true, pointerType })), pointerType);
    // A key of a screen has no place on a keyboard.
    expect(await key(tab.page, 'textarea', 'Enter')).toBe(false);
  }
  expect(await tab.messages.count()).toBe(0);
  expect(await key(tab.page, 'textarea', 'Enter', { code: 'Enter' })).toBe(true);
  await until(() => tab.texts()).toEqual(['text']);
  await context.close();
});

test('what is pasted with text in it is text, and a picture or files alone are sent', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, 'paster');
  await tab.start('paster-peer');
  const { page } = tab;
  /** True if the page took it, and so no text is put into the field. */
  const paste = (texts: Record<string, string>, files: string[]): Promise<boolean> =>
    page.evaluate(
      ({ texts, files }) => {
        const data = new DataTransfer();
        for (const [type, text] of Object.entries(texts)) data.items.add(text, type);
        for (const name of files) data.items.add(new File([new Uint8Array([1, 2, 3])], name, { type: 'image/png' }));
        const event = new ClipboardEvent('paste', { bubbles: true, cancelable: true, clipboardData: data });
        return !document.querySelector('textarea')?.dispatchEvent(event);
      },
      { texts, files },
    );
  // A spreadsheet, a word processor, one cell, and one whose text is called like a file.
  expect(await paste({ 'text/plain': 'a\tb\r\n1\t2', 'text/html': '<table></table>', 'text/rtf': '{}' }, ['image.png'])).toBe(false);
  expect(await paste({ 'text/plain': 'Some words.', 'text/html': '<p>Some words.</p>' }, ['image.png', 'image.png'])).toBe(false);
  expect(await paste({ 'text/plain': '1' }, ['image.png'])).toBe(false);
  expect(await paste({ 'text/plain': 'see image.png' }, ['image.png'])).toBe(false);
  expect(await paste({ 'text/plain': 'only text' }, [])).toBe(false);
  await page.waitForTimeout(300);
  expect(await tab.messages.count()).toBe(0);
  // A picture of a page, one with nothing but space, and files from file managers, which put their names beside them.
  expect(await paste({}, ['image.png'])).toBe(true);
  expect(await paste({ 'text/html': '<img src="x">' }, ['image.png'])).toBe(true);
  expect(await paste({ 'text/plain': ' \r\n' }, ['image.png'])).toBe(true);
  expect(await paste({ 'text/plain': 'a b.png' }, ['a b.png'])).toBe(true);
  expect(await paste({ 'text/plain': 'file:///home/me/a%20b.png\r\n/home/me/c.png' }, ['a b.png', 'c.png'])).toBe(true);
  await until(() => page.locator('.message[data-id]').count()).toBe(6);
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('each file that is refused has its reason', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, 'filer');
  await tab.start('filer-peer');
  const named = (name: string, size: number) => ({ name, mimeType: 'application/zip', buffer: randomBytes(size) });
  await tab.page.locator('[data-files]').setInputFiles([named('large.zip', CONTENT_LIMIT + 1), named('good.zip', 100), named('empty.zip', 0), named('larger.zip', 3 * CONTENT_LIMIT)]);
  await until(() => tab.page.locator('.composer .failure li').allInnerTexts()).toEqual([
    'large.zip: It has 20 kB: this server takes at most 20 kB.',
    'empty.zip: there is nothing in it.',
    'larger.zip: It has 60 kB: this server takes at most 20 kB.',
  ]);
  await until(() => tab.page.locator('.message[data-id]').count()).toBe(1);
  await tab.page.getByRole('button', { name: 'Dismiss' }).click();
  await until(() => tab.page.locator('.composer .failure li').count()).toBe(0);
  await context.close();
});

test('what somebody has begun to write is there after a reload, for each conversation, until it is sent', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, 'drafter');
  await tab.start('one');
  await tab.composer.pressSequentially('to one');
  await tab.start('two');
  await tab.composer.pressSequentially('to two');
  await tab.page.reload();
  await until(() => tab.composer.inputValue()).toBe('to two');
  await tab.start('one');
  expect(await tab.composer.inputValue()).toBe('to one');
  await tab.composer.press('Enter');
  await until(() => tab.marks()).toEqual(['sent']);
  await tab.page.reload();
  await until(() => tab.texts()).toEqual(['to one']);
  expect(await tab.composer.inputValue()).toBe('');
  // Another tab of the same user has it, another user has not.
  const second = await Tab.signedIn(context, server.url, 'drafter');
  await second.start('two');
  expect(await second.composer.inputValue()).toBe('to two');
  const other = await Tab.signedIn(context, server.url, 'other-drafter');
  await other.start('two');
  expect(await other.composer.inputValue()).toBe('');
  expect(tab.failures.concat(second.failures, other.failures)).toEqual([]);
  await context.close();
});

test('when the time of a token is over, what was written is there after signing in again', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  const proxy = await Proxy.before(server.port);
  const tab = await Tab.open(context, proxy.url);
  const { page } = tab;
  await page.getByLabel('Token', { exact: true }).fill(token('again', 3));
  await page.getByRole('button', { name: 'Sign in', exact: true }).click();
  await tab.start('peer');
  proxy.blockDoors = true;
  proxy.cut();
  await until(async () => (await tab.state()).state).not.toBe('connected');
  await tab.say('written before the end');
  await tab.composer.pressSequentially('and begun');
  await page.waitForTimeout(4000);
  proxy.blockDoors = false;
  await page.getByRole('button', { name: 'Sign in again' }).click();
  await signIn(tab, 'again');
  await until(() => tab.texts()).toEqual(['written before the end']);
  await until(() => tab.marks()).toEqual(['sent']);
  expect(await tab.composer.inputValue()).toBe('and begun');
  expect(await server.texts('again', 'peer')).toEqual(['written before the end']);
  expect(tab.failures).toEqual([]);
  await context.close();
  await proxy.close();
});

test('signing out with something unsent asks, and leaves no text on the computer', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  const proxy = await Proxy.before(server.port);
  const tab = await Tab.signedIn(context, proxy.url, 'leaver');
  const { page } = tab;
  await tab.start('peer');
  await tab.say('sent');
  await until(() => tab.marks()).toEqual(['sent']);
  proxy.blockDoors = true;
  proxy.cut();
  await until(async () => (await tab.state()).state).not.toBe('connected');
  await tab.say(SECRET);
  await tab.say(`${SECRET}, either`);
  await tab.composer.pressSequentially(`${SECRET}, begun`);
  await until(() => stored(page)).toContain(`${SECRET}, either`);
  const signOut = page.getByRole('button', { name: 'Sign out' });
  await signOut.click();
  const question = page.getByRole('dialog', { name: 'Sign out?' });
  await until(() => question.innerText()).toContain('2 messages are not sent yet');
  // Nothing is lost by Escape, or by staying.
  await page.keyboard.press('Escape');
  await until(() => question.count()).toBe(0);
  await signOut.click();
  await page.getByRole('button', { name: 'Stay' }).click();
  await until(() => question.count()).toBe(0);
  expect(await tab.composer.inputValue()).toBe(`${SECRET}, begun`);
  await signOut.click();
  await page.getByRole('button', { name: 'Remove it and leave' }).click();
  await page.getByLabel('Token', { exact: true }).waitFor();
  await until(() => stored(page)).not.toContain(SECRET);
  // Neither is anything of it there for the next one, nor sent.
  proxy.blockDoors = false;
  await signIn(tab, 'leaver');
  await tab.openConversation('peer');
  await until(() => tab.texts()).toEqual(['sent']);
  expect(await tab.composer.inputValue()).toBe('');
  // With nothing unsent it does not ask, and neither with nothing but spaces.
  await tab.composer.fill('   ');
  await signOut.click();
  await page.getByLabel('Token', { exact: true }).waitFor();
  expect(await server.texts('leaver', 'peer')).toEqual(['sent']);
  expect(tab.failures).toEqual([]);
  await context.close();
  await proxy.close();
});

test('what is begun is asked about, and another user’s is left alone', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  const first = await Tab.signedIn(context, server.url, 'beginner');
  await first.start('peer');
  await first.composer.pressSequentially(SECRET);
  const second = await Tab.signedIn(context, server.url, 'beginner-2');
  await second.start('peer');
  await second.composer.pressSequentially('hers');
  await first.page.getByRole('button', { name: 'Sign out' }).click();
  await until(() => first.page.getByRole('dialog').innerText()).toContain('What you have begun to write is not sent');
  await first.page.getByRole('button', { name: 'Remove it and leave' }).click();
  await until(() => stored(first.page)).not.toContain(SECRET);
  expect(await stored(first.page)).toContain('hers');
  await context.close();
});

test('others are told of what one receives and reads unless one says no, which is kept', { timeout: 60_000 }, async () => {
  const [mine, theirs] = [await person(browser), await person(browser)];
  const quiet = await Tab.signedIn(mine, server.url, 'quiet');
  const asker = await Tab.signedIn(theirs, server.url, 'asker');
  const settings = quiet.page.getByRole('button', { name: 'Settings' });
  const choice = (name: string) => quiet.page.getByRole('checkbox', { name });
  await settings.click();
  expect([await choice('That I have received').isChecked(), await choice('That I have read').isChecked()]).toEqual([true, true]);
  await choice('That I have received').uncheck();
  expect(await choice('That I have read').isChecked()).toBe(false);
  await quiet.page.getByRole('button', { name: 'Done' }).click();
  await quiet.page.reload();
  await asker.start('quiet');
  await asker.say('are you there?');
  await until(() => quiet.unread('asker')).toBe(1);
  await quiet.openConversation('asker');
  // Here it is read, there nobody knows.
  await until(() => quiet.unread('asker')).toBe(0);
  await quiet.page.waitForTimeout(1000);
  expect(await asker.marks()).toEqual(['sent']);
  expect(await server.readMark('quiet', 'asker')).toBe(0);
  await settings.click();
  await choice('That I have read').check();
  expect(await choice('That I have received').isChecked()).toBe(true);
  await quiet.page.getByRole('button', { name: 'Done' }).click();
  await asker.say('and now?');
  await until(() => asker.marks()).toEqual(['read', 'read']);
  expect(quiet.failures.concat(asker.failures)).toEqual([]);
  await mine.close();
  await theirs.close();
});
