/** Each view of the page: what it says, whether everybody can use it, and what it lets nobody do. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { AxeResults } from 'axe-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Browser } from 'playwright-core';
import { launch, person, Tab, type Look } from './harness/browser';
import { Server, token } from './harness/server';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const LIMIT = 60_000;
const until = <T>(what: () => Promise<T>) => expect.poll(what, { timeout: LIMIT, interval: 50 });
const CONTENT_LIMIT = 20_000;
const PICTURE = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==',
  'base64',
);

let browser: Browser;
let server: Server;
let development: Server;
beforeAll(async () => {
  [browser, server, development] = await Promise.all([
    launch(),
    Server.start('SQLite', { settings: { CHAT_CONTENT_LIMIT: String(CONTENT_LIMIT) } }),
    Server.start('SQLite', { development: true }),
  ]);
});
afterAll(async () => {
  await Promise.all([browser.close(), server.remove(), development.remove()]);
});

test('on a server for development one signs in with a user id, until one signs out', async () => {
  const context = await person(browser);
  const tab = await Tab.open(context, development.url);
  const { page } = tab;
  const field = page.getByLabel('User id');
  await until(() => field.evaluate((input) => document.activeElement === input)).toBe(true);
  await field.fill('a b');
  await page.keyboard.press('Enter');
  await until(() => page.getByRole('alert').innerText()).toContain('That is no user id');
  expect(await field.getAttribute('aria-invalid')).toBe('true');
  await field.fill('alice');
  await page.keyboard.press('Enter');
  await until(async () => (await tab.state()).state).toBe('connected');
  await page.getByText('No conversations yet.').waitFor();
  await page.reload();
  await until(async () => (await tab.state()).state).toBe('connected');
  // Its tokens end with the server: the page gets another by itself.
  await development.restart();
  await until(() => tab.state().then(({ state }) => state)).toBe('connected');
  await tab.start('bob');
  await tab.say('still me');
  await until(() => tab.marks()).toEqual(['sent']);
  await page.getByRole('button', { name: 'Sign out' }).click();
  await field.waitFor();
  expect(await page.evaluate(() => JSON.stringify({ ...sessionStorage }))).toBe('{}');
  await page.reload();
  await field.waitFor();
  // Another tab knows nothing of the first one's token.
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('elsewhere one signs in with a token, and is told what is wrong with it', async () => {
  const context = await person(browser);
  const tab = await Tab.open(context, server.url);
  const { page } = tab;
  expect(await page.getByRole('button', { name: /user id/ }).count()).toBe(0);
  const field = page.getByLabel('Token', { exact: true });
  for (const bad of ['', 'nonsense', 'a.b.c']) {
    await field.fill(bad);
    await field.press('Enter');
    await until(() => page.getByRole('alert').innerText()).toContain('That is no token');
  }
  // Those that only the server can tell from good ones.
  await field.fill(token('alice', -3600));
  await field.press('Enter');
  await until(() => tab.connection.innerText()).toContain('Your time is over');
  await page.getByRole('button', { name: 'Sign in again' }).click();
  await field.fill(`${token('alice')}x`);
  await field.press('Enter');
  await until(() => tab.connection.innerText()).toContain('does not know this token');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await field.fill(`Bearer ${token('alice')}`);
  await field.press('Enter');
  await until(async () => (await tab.state()).state).toBe('connected');
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('what somebody has written is text, whatever it is', async () => {
  const texts = [
    '<script>window.pwned = 1</script>',
    '<img src=x onerror="window.pwned = 1">',
    '<svg/onload=window.pwned=1>',
    '"><iframe srcdoc="<script>parent.pwned=1</script>">',
    '{{constructor.constructor("window.pwned=1")()}}',
    'javascript:window.pwned=1',
    '[x](javascript:window.pwned=1)',
    'https://example.com/"onmouseover="window.pwned=1',
    'data:text/html,<script>parent.pwned=1</script>',
    '&lt;b&gt;not bold&lt;/b&gt; <b>neither</b>',
    '__proto__',
    'x'.repeat(5000),
    'مرحبا بالعالم <b>',
    '\u202egnp.exe',
    '👩‍👩‍👧‍👦🇺🇳',
    '\u0000\u0007\ud83d\ude00\ufffd',
    'line\n\n\n  kept   spaces',
  ];
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, 'mallory');
  for (const text of texts) await server.send('eve', 'mallory', text);
  for (const text of texts) {
    await server.send('eve', 'mallory', { data: Buffer.from(text), type: 'text/html' });
  }
  await tab.openConversation('eve');
  await until(() => tab.page.locator('.message[data-id]').count()).toBe(2 * texts.length);
  const shown = await tab.page.locator('.message .text').evaluateAll((all) => all.map((one) => one.textContent));
  const folded = texts.map((text) => (text.length > 3000 ? `${text.slice(0, 3000)}…` : text));
  expect(shown).toEqual([...folded, ...folded]);
  await tab.page.getByRole('button', { name: /Show all/ }).first().click();
  await until(() => tab.page.locator('.message .text').evaluateAll((all) => all.map((one) => one.textContent))).toContain('x'.repeat(5000));
  const inside = await tab.page.locator('.message .text *').evaluateAll((all) =>
    all.map((one) => [one.tagName, one.getAttribute('href'), one.getAttribute('rel'), one.getAttribute('target'), one.getAttributeNames().length]),
  );
  const link = ['A', 'https://example.com/', 'noopener noreferrer nofollow ugc', '_blank', 3];
  expect(inside).toEqual([link, link]);
  const wide = await tab.scroller.evaluate((scroller) => scroller.scrollWidth - scroller.clientWidth);
  expect(wide).toBe(0);
  // The list of conversations, the title and what is announced are text as well.
  expect(await tab.entry('eve').locator('script, img, b, iframe').count()).toBe(0);
  expect(await tab.page.evaluate(() => 'pwned' in window)).toBe(false);
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('the policy of the page holds', async () => {
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, 'alice');
  const answer = await fetch(server.url);
  expect(answer.headers.get('content-security-policy')).not.toContain('unsafe');
  const tried = await tab.page.evaluate(async () => {
    const outcome = (what: () => unknown) => {
      try {
        what();
        return 'done';
      } catch {
        return 'refused';
      }
    };
    const script = document.createElement('script');
    const isPwned = () => 'pwned' in window;
    const frame = () => new Promise((resolve) => setTimeout(resolve));
    return {
      html: outcome(() => (document.body.innerHTML += '<b>x</b>')),
      script: outcome(() => (script.text = 'window.pwned = 1')),
      handler: outcome(() => document.body.setAttribute('onclick', 'window.pwned = 1')),
      clicked: (document.body.click(), await frame(), isPwned()),
      elsewhere: await fetch('https://example.com/').then(
        () => 'done',
        () => 'refused',
      ),
    };
  });
  expect(tried).toMatchObject({ html: 'refused', script: 'refused', clicked: false, elsewhere: 'refused' });
  // It was seen, so that the other tests would see it too.
  expect(tab.failures.length).toBeGreaterThan(0);
  await context.close();
});

test('files come by button, paste and drop; what is too large is told at once', async () => {
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, 'fay');
  await tab.start('gus');
  const { page } = tab;
  const large = randomBytes(CONTENT_LIMIT + 1);
  await page.locator('[data-files]').setInputFiles({ name: 'large.bin', mimeType: '', buffer: large });
  await until(() => page.locator('.composer [role=alert]').innerText()).toContain('large.bin: It has 20 kB: this server takes at most 20 kB.');
  await tab.composer.fill('x'.repeat(CONTENT_LIMIT + 1));
  await tab.composer.press('Enter');
  await until(() => page.locator('.composer [role=alert]').innerText()).toContain('this server takes at most');
  expect(await tab.composer.inputValue()).toHaveLength(CONTENT_LIMIT + 1);
  await tab.composer.fill('');
  for (const way of ['paste', 'drop']) {
    await page.evaluate(
      ({ way, bytes }) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], `${way}.png`, { type: 'image/png' }));
        const target = document.querySelector(way === 'paste' ? 'textarea' : '.scroller, .messages');
        const options = { bubbles: true, cancelable: true };
        target?.dispatchEvent(
          way === 'paste' ? new ClipboardEvent('paste', { ...options, clipboardData: data }) : new DragEvent('drop', { ...options, dataTransfer: data }),
        );
      },
      { way, bytes: [...PICTURE] },
    );
  }
  await until(() => page.locator('.message .picture img').evaluateAll((all) => all.map((one) => (one as HTMLImageElement).naturalWidth))).toEqual([1, 1]);
  expect(await server.texts('fay', 'gus')).toHaveLength(2);
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('what the server refuses stays, with the reason, to be tried again or discarded', async () => {
  const context = await person(browser);
  // A page that believes in a larger limit than the server has.
  await context.route(server.url, async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, body: (await answer.text()).replace(/content-limit=\d+/, 'content-limit=1000000') });
  });
  const tab = await Tab.signedIn(context, server.url, 'hal');
  await tab.start('ivy');
  await tab.say('x'.repeat(CONTENT_LIMIT + 1));
  await tab.say('short');
  await until(() => tab.page.locator('.not-sent').innerText()).toContain('It is too large: this server takes at most');
  await until(() => tab.page.locator('.message[data-id] .text').allInnerTexts()).toEqual(['short']);
  await tab.page.getByRole('button', { name: 'Try again' }).click();
  await until(() => tab.page.locator('.message[data-state=failed]').count()).toBe(1);
  await tab.page.getByRole('button', { name: 'Discard' }).click();
  await until(() => tab.messages.count()).toBe(1);
  expect(await server.texts('hal', 'ivy')).toEqual(['short']);
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('what nobody looks at is not read', async () => {
  const context = await person(browser);
  await context.addInitScript(() => {
    Document.prototype.hasFocus = () => !('away' in window);
  });
  const tab = await Tab.signedIn(context, server.url, 'jo');
  await server.send('kim', 'jo', 'one');
  await tab.openConversation('kim');
  await until(() => tab.unread('kim')).toBe(0);
  await tab.page.evaluate(() => Object.assign(window, { away: true }));
  await server.send('kim', 'jo', 'two');
  await until(() => tab.texts()).toEqual(['one', 'two']);
  expect(await tab.unread('kim')).toBe(1);
  await until(() => tab.page.locator('[role=log]').innerText()).toBe('kim: two');
  await tab.page.evaluate(() => {
    delete (window as { away?: boolean }).away;
    dispatchEvent(new Event('focus'));
  });
  await until(() => tab.unread('kim')).toBe(0);
  await context.close();
});

test('where the new ones begin is marked, and comes into view', async () => {
  const context = await person(browser);
  const many = (what: string) => Array.from({ length: 60 }, (_, n) => `${what} ${n}`);
  for (const text of many('first')) await server.send('pat', 'oz', text);
  const tab = await Tab.signedIn(context, server.url, 'oz');
  const begin = () =>
    tab.page.locator('.new').evaluateAll((all) =>
      all.map((one) => {
        const { top } = one.getBoundingClientRect();
        return [one.parentElement?.querySelector('.text')?.textContent, top > 0 && top < innerHeight / 2];
      }),
    );
  await until(() => tab.unread('pat')).toBe(60);
  await tab.openConversation('pat');
  await until(begin).toEqual([['first 0', true]]);
  // Read as far as it was in view, and no further.
  await until(() => tab.unread('pat')).toBeLessThan(60);
  expect(await tab.unread('pat')).toBeGreaterThan(20);
  await tab.scroller.press('End');
  await until(() => tab.unread('pat')).toBe(0);
  await tab.page.keyboard.press('Escape');
  for (const text of many('second')) await server.send('pat', 'oz', text);
  await until(() => tab.unread('pat')).toBe(60);
  await tab.openConversation('pat');
  await until(begin).toEqual([['second 0', true]]);
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('everything can be done with the keyboard', async () => {
  const context = await person(browser);
  for (const from of ['one', 'two', 'three']) await server.send(from, 'lee', `from ${from}`);
  const tab = await Tab.signedIn(context, server.url, 'lee');
  const { page } = tab;
  const focused = () => page.evaluate(() => (document.activeElement as HTMLElement | null)?.dataset['peer'] ?? document.activeElement?.getAttribute('aria-label'));
  await tab.entry('three').focus();
  await page.keyboard.press('ArrowDown');
  expect(await focused()).toBe('two');
  await page.keyboard.press('End');
  expect(await focused()).toBe('one');
  await page.keyboard.press('ArrowDown');
  expect(await focused()).toBe('one');
  await page.keyboard.press('Home');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await until(focused).toBe('Message');
  await page.keyboard.type('answered');
  await page.keyboard.press('Enter');
  await until(() => tab.texts()).toEqual(['from two', 'answered']);
  await page.keyboard.press('Escape');
  await until(focused).toBe('two');
  expect(await page.evaluate(() => location.hash)).toBe('');
  // One stop of Tab for the whole list.
  expect(await page.locator('.entry[tabindex="0"]').count()).toBe(1);
  // What was begun is there when one comes back.
  await page.keyboard.press('Enter');
  await until(focused).toBe('Message');
  await page.keyboard.type('a draft');
  await page.keyboard.press('Escape');
  await page.keyboard.press('ArrowUp');
  await page.keyboard.press('Escape');
  await tab.openConversation('two');
  expect(await tab.composer.inputValue()).toBe('a draft');
  // To somebody new.
  await page.getByRole('button', { name: 'Start a conversation' }).focus();
  await page.keyboard.press('Enter');
  await page.keyboard.type('not an id');
  await page.keyboard.press('Enter');
  await until(() => page.locator('.start [role=alert]').innerText()).toContain('That is no user id');
  await page.keyboard.press('Escape');
  await until(focused).toBe('Start a conversation');
  expect(tab.failures).toEqual([]);
  await context.close();
});

test('on a phone there is one pane at a time, and back leads to the list', async () => {
  const context = await person(browser, { phone: true });
  await server.send('mo', 'nan', 'hello');
  const tab = await Tab.signedIn(context, server.url, 'nan');
  const { page } = tab;
  const panes = async () => [await page.locator('.side').isVisible(), await page.locator('.conversation').isVisible()];
  await tab.entry('mo').waitFor();
  expect(await panes()).toEqual([true, false]);
  await tab.openConversation('mo');
  expect(await panes()).toEqual([false, true]);
  await page.goBack();
  await until(panes).toEqual([true, false]);
  await tab.openConversation('mo');
  await page.reload();
  await until(panes).toEqual([false, true]);
  await page.getByRole('button', { name: 'Back to the conversations' }).click();
  await until(panes).toEqual([true, false]);
  expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
  expect(tab.failures).toEqual([]);
  await context.close();
});

for (const scheme of ['light', 'dark'] as const) {
  for (const phone of [false, true]) {
    test(`axe finds nothing in any view, ${scheme}${phone ? ', on a phone' : ''}`, { timeout: 240_000 }, async () => {
      const me = `ann-${scheme}-${phone}`;
      const context = await person(browser, { scheme, phone } satisfies Look);
      const signIn = await Tab.open(context, development.url);
      await check(signIn, 'sign in with a user id');
      await signIn.page.getByLabel('User id').fill('?');
      await signIn.page.keyboard.press('Enter');
      await signIn.page.getByText('That is no user id').waitFor();
      await check(signIn, 'a user id that is none');
      await signIn.page.getByRole('button', { name: 'Use a token' }).click();
      await check(signIn, 'sign in with a token');

      await context.route(server.url, async (route) => {
        const answer = await route.fetch();
        await route.fulfill({ response: answer, body: (await answer.text()).replace(/content-limit=\d+/, 'content-limit=1000000') });
      });
      const tab = await Tab.signedIn(context, server.url, me);
      const { page } = tab;
      await page.getByText('No conversations yet.').waitFor();
      await check(tab, 'no conversations');
      await server.send(me, 'bob', 'hi');
      await server.send('bob', me, 'hello, see https://example.com/');
      await server.send('bob', me, 'مرحبا 🎉');
      await server.send('bob', me, '🎉');
      await server.send('bob', me, 'long '.repeat(1000));
      await server.send('bob', me, { data: PICTURE, type: 'image/png' });
      await server.send('bob', me, { data: Buffer.from('not a picture'), type: 'image/png' });
      await server.send('bob', me, { data: randomBytes(3000), type: "application/pdf; name*=UTF-8''report.pdf" });
      await server.send('carol', me, 'unread');
      await until(() => tab.unread('bob')).toBe(7);
      await check(tab, 'conversations');
      await page.getByRole('button', { name: 'Start a conversation' }).click();
      await page.getByLabel('With whom?').fill('?');
      await page.keyboard.press('Enter');
      await page.getByText('That is no user id').waitFor();
      await check(tab, 'starting a conversation');
      await page.getByRole('button', { name: 'Start a conversation' }).click();
      await tab.openConversation('bob');
      await page.locator('.new').waitFor();
      await check(tab, 'a conversation');
      await tab.composer.fill('y'.repeat(CONTENT_LIMIT + 1));
      await page.getByRole('button', { name: 'Send', exact: true }).click();
      await page.locator('.not-sent').waitFor();
      await page.locator('[data-files]').setInputFiles({ name: 'large.bin', mimeType: '', buffer: randomBytes(1_000_001) });
      await page.locator('.composer .failure span').waitFor();
      await check(tab, 'what was refused');
      if (!phone) {
        await page.getByRole('button', { name: 'Sign out' }).click();
        await page.getByRole('dialog', { name: 'Sign out?' }).waitFor();
        await check(tab, 'signing out with something unsent');
        await page.keyboard.press('Escape');
        await page.getByRole('button', { name: 'Settings' }).click();
        await page.getByRole('dialog', { name: 'What others see' }).waitFor();
        await check(tab, 'settings');
        await page.keyboard.press('Escape');
      }
      await page.getByRole('button', { name: /enlarge/ }).click();
      await page.getByRole('dialog').waitFor();
      await check(tab, 'a picture');
      await page.keyboard.press('Escape');
      await context.setOffline(true);
      await until(async () => (await tab.state()).state).not.toBe('connected');
      await check(tab, 'offline');
      await context.setOffline(false);
      await tab.page.goto(`${server.url}#nobody-yet`);
      await page.getByText('No messages yet').waitFor();
      await check(tab, 'an empty conversation');
      await context.close();
    });
  }
}

async function check(tab: Tab, view: string): Promise<void> {
  await tab.page.evaluate(`window.axe || (() => { ${AXE} })()`);
  const found = (await tab.page.evaluate('axe.run(document, { resultTypes: ["violations"] })')) as AxeResults;
  const violations = found.violations.map(({ id, nodes }) => [view, id, ...nodes.map(({ html, any }) => `${html.slice(0, 150)} ${any[0]?.message ?? ''}`)]);
  expect(violations).toEqual([]);
  expect(found.passes.length).toBeGreaterThan(5);
}
