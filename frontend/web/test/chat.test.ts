/** What people do with the page, on a real server, in a real browser. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Browser } from 'playwright-core';
import { sized } from '../../driver/test/support/sized';
import { launch, person, Tab } from './harness/browser';
import { eventually } from './harness/processes';
import { Proxy } from './harness/proxy';
import { Server, type DatabaseKind } from './harness/server';

/** The smallest PNG: one red point. */
const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==',
  'base64',
);
const LIMIT = 60_000;
/** Messages that come while somebody is away. */
const MANY = sized(100, 500);
const until = <T>(what: () => Promise<T>, timeout = LIMIT) => expect.poll(what, { timeout, interval: 50 });
const numbered = (count: number, what = 'message') => Array.from({ length: count }, (_, n) => `${what} ${n + 1}`);

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(async () => {
  await browser.close();
});

for (const kind of ['SQLite', 'MariaDB'] as const satisfies DatabaseKind[]) {
  describe(`on ${kind}`, () => {
    let server: Server;
    let names = 0;
    /** Somebody whom no other test has met. */
    const somebody = (name: string) => `${name}-${(names += 1)}`;

    beforeAll(async () => {
      server = await Server.start(kind);
    });
    afterAll(async () => {
      await server.remove();
    });

    test('two people chat', async () => {
      const [alice, bob] = [somebody('alice'), somebody('bob')];
      const [hers, his] = [await person(browser), await person(browser)];
      const a = await Tab.signedIn(hers, server.url, alice);
      const b = await Tab.signedIn(his, server.url, bob);
      await a.start(bob);
      await a.say('Hello Bob');
      await until(() => b.unread(alice)).toBe(1);
      await until(() => b.entry(alice).innerText()).toContain('Hello Bob');
      await until(() => b.page.title()).toBe('(1) Chat');
      // Delivered by being there, read by being looked at.
      await until(() => a.marks()).toEqual(['delivered']);
      await b.openConversation(alice);
      await until(() => a.marks()).toEqual(['read']);
      expect(await b.unread(alice)).toBe(0);
      await b.say('Hello Alice');
      await b.say('How are you?');
      await until(() => a.texts()).toEqual(['Hello Bob', 'Hello Alice', 'How are you?']);
      await until(() => b.marks()).toEqual(['read', 'read']);
      // Shift and Enter is a line.
      await a.composer.fill('one');
      await a.composer.press('Shift+Enter');
      await a.composer.pressSequentially('two');
      await a.composer.press('Enter');
      await until(() => b.texts()).toEqual(['Hello Bob', 'Hello Alice', 'How are you?', 'one\ntwo']);
      expect(a.failures.concat(b.failures)).toEqual([]);
      await hers.close();
      await his.close();
    });

    test('whoever was away for many messages has all of them, once, in order, and their number', async () => {
      const [alice, bob] = [somebody('alice'), somebody('bob')];
      const context = await person(browser);
      const tab = await Tab.signedIn(context, server.url, alice);
      await server.send(bob, alice, 'message 0');
      await until(() => tab.unread(bob)).toBe(1);
      await tab.openConversation(bob);
      await until(() => tab.unread(bob)).toBe(0);
      await tab.page.keyboard.press('Escape');

      await context.setOffline(true);
      await until(async () => (await tab.state()).state).not.toBe('connected');
      for (const text of numbered(MANY)) await server.send(bob, alice, text);
      await context.setOffline(false);
      await tab.page.reload();

      await until(() => tab.unread(bob)).toBe(MANY);
      await tab.openConversation(bob);
      await tab.messages.first().waitFor();
      // It begins at the first unread one; from the newest one all can be had.
      await tab.page.getByRole('button', { name: /to the newest/ }).click();
      await until(async () => (await tab.texts()).at(-1)).toBe(`message ${MANY}`);
      const all = await tab.all();
      expect(all.map(({ text }) => text)).toEqual(numbered(MANY + 1).map((_, n) => `message ${n}`));
      expect(all.map(({ seq }) => seq)).toEqual(all.map((_, n) => n + 1));
      await until(() => tab.unread(bob)).toBe(0);
      expect(tab.failures).toEqual([]);
      await context.close();
    });

    test('what is written offline is kept through a reload, and sent once', async () => {
      const [alice, bob] = [somebody('alice'), somebody('bob')];
      const context = await person(browser);
      const proxy = await Proxy.before(server.port);
      const tab = await Tab.signedIn(context, proxy.url, alice);
      await tab.start(bob);
      await tab.say('before');
      await until(() => tab.marks()).toEqual(['sent']);
      await context.setOffline(true);
      await until(async () => (await tab.state()).state).not.toBe('connected');
      await tab.say('written offline');
      await tab.say('and another');
      await until(() => tab.marks()).toEqual(['sent', 'pending', 'pending']);
      // A page cannot be reloaded offline: the network comes back, the doors do not.
      proxy.blockDoors = true;
      await context.setOffline(false);
      await tab.page.reload();
      await until(() => tab.page.locator('.message[data-state="pending"] .text').allInnerTexts()).toEqual(['written offline', 'and another']);
      proxy.blockDoors = false;
      await until(() => tab.marks()).toEqual(['sent', 'sent', 'sent']);
      expect(await server.texts(alice, bob)).toEqual(['before', 'written offline', 'and another']);
      expect(tab.failures).toEqual([]);
      await context.close();
      await proxy.close();
    });

    test('it goes on over whatever comes through, and goes back up', async () => {
      const [alice, bob] = [somebody('alice'), somebody('bob')];
      const proxy = await Proxy.before(server.port);
      const [hers, his] = [await person(browser), await person(browser)];
      const a = await Tab.signedIn(hers, proxy.url, alice);
      const b = await Tab.signedIn(his, server.url, bob);
      await a.start(bob);
      const said: string[] = [];
      /** Both ways, over the rung that is meant. */
      const talk = async (transport: string, limit = LIMIT) => {
        await until(() => a.state(), limit).toEqual({ state: 'connected', transport });
        await a.say(`over ${transport}`);
        said.push(`over ${transport}`);
        await until(() => server.texts(alice, bob)).toEqual(said);
        await server.send(bob, alice, `back over ${transport}`);
        said.push(`back over ${transport}`);
        await until(() => a.texts()).toEqual(said);
        expect(await a.state()).toEqual({ state: 'connected', transport });
      };
      await talk('websocket');
      proxy.websocket = false;
      proxy.cut();
      await talk('polling');
      proxy.socketIo = false;
      proxy.cut();
      await talk('sse');
      proxy.holdsBack = 64 << 10;
      proxy.cut();
      await talk('long-poll');
      expect(proxy.asked).toContain('/v1/events');
      Object.assign(proxy, { websocket: true, socketIo: true, holdsBack: 0 });
      // The longer it was below, the longer is the pause before it tries to climb.
      await talk('websocket', 2 * LIMIT);
      await b.openConversation(alice);
      await until(() => b.texts()).toEqual(said);
      expect(await server.texts(alice, bob)).toEqual(said);
      expect(a.failures.concat(b.failures)).toEqual([]);
      await hers.close();
      await his.close();
      await proxy.close();
    });

    test('two tabs of one person have one state', async () => {
      const [alice, bob] = [somebody('alice'), somebody('bob')];
      const context = await person(browser);
      const first = await Tab.signedIn(context, server.url, alice);
      const second = await Tab.signedIn(context, server.url, alice);
      await server.sendMany(bob, alice, ['one']);
      await server.sendMany(bob, alice, ['two']);
      for (const tab of [first, second]) await until(() => tab.unread(bob)).toBe(2);
      // Read in one, read in the other.
      await first.page.bringToFront();
      await first.openConversation(bob);
      for (const tab of [first, second]) await until(() => tab.unread(bob)).toBe(0);
      // Written in one, there in the other, with its marks.
      await first.say('three, from the first');
      await second.page.bringToFront();
      await second.openConversation(bob);
      await until(() => second.texts()).toEqual(['one', 'two', 'three, from the first']);
      await second.say('four, from the second');
      for (const tab of [first, second]) {
        await until(() => tab.texts()).toEqual(['one', 'two', 'three, from the first', 'four, from the second']);
      }
      const his = await person(browser);
      const b = await Tab.signedIn(his, server.url, bob);
      await b.openConversation(alice);
      for (const tab of [first, second]) await until(() => tab.marks()).toEqual(['read', 'read']);
      expect(await server.texts(alice, bob)).toHaveLength(4);
      // One cursor: what comes after a reload of one comes once in both.
      await first.page.reload();
      await server.send(bob, alice, 'five');
      for (const tab of [first, second]) await until(async () => (await tab.texts()).filter((text) => text === 'five').length).toBe(1);
      expect(first.failures.concat(second.failures, b.failures)).toEqual([]);
      await context.close();
      await his.close();
    });

    test('a server that is killed while both write loses nothing and doubles nothing', async () => {
      const [alice, bob] = [somebody('alice'), somebody('bob')];
      const [hers, his] = [await person(browser), await person(browser)];
      const a = await Tab.signedIn(hers, server.url, alice);
      const b = await Tab.signedIn(his, server.url, bob);
      await a.start(bob);
      await b.start(alice);
      const write = async (tab: Tab, name: string) => {
        for (let n = 1; n <= 30; n += 1) await tab.say(`${name} ${n}`);
      };
      const writing = Promise.all([write(a, alice), write(b, bob)]);
      for (let kills = 0; kills < 2; kills += 1) {
        const before = (await server.texts(alice, bob)).length;
        await eventually('something more was written', async () => (await server.texts(alice, bob)).length > before || before === 60);
        await server.kill9();
        await server.restart();
      }
      await writing;
      await until(async () => (await server.texts(alice, bob)).length).toBe(60);
      const there = await server.texts(alice, bob);
      for (const name of [alice, bob]) {
        expect(there.filter((text) => text.startsWith(`${name} `))).toEqual(numbered(30, name));
      }
      for (const tab of [a, b]) {
        await until(async () => (await tab.page.locator('.message[data-state]').count()) === 0).toBe(true);
        await until(async () => (await tab.all()).map(({ text }) => text)).toEqual(there);
      }
      expect(a.failures.concat(b.failures)).toEqual([]);
      await hers.close();
      await his.close();
    });

    test('pictures are shown, files are offered, and nothing that was sent runs', async () => {
      const [alice, bob] = [somebody('alice'), somebody('bob')];
      const [hers, his] = [await person(browser), await person(browser)];
      const a = await Tab.signedIn(hers, server.url, alice);
      const b = await Tab.signedIn(his, server.url, bob);
      await a.start(bob);
      const evil = '<svg xmlns="http://www.w3.org/2000/svg" onload="parent.pwned=1"><script>parent.pwned=1</script></svg>';
      const notes = randomBytes(5000);
      await a.page.locator('[data-files]').setInputFiles([
        { name: 'red.png', mimeType: 'image/png', buffer: PNG },
        { name: 'Zusammenfassung für Bob (2).pdf', mimeType: 'application/pdf', buffer: notes },
        { name: 'evil.svg', mimeType: 'image/svg+xml', buffer: Buffer.from(evil) },
        { name: 'evil.html', mimeType: 'text/html', buffer: Buffer.from('<script>window.pwned=1</script>') },
      ]);
      await until(() => a.marks()).toHaveLength(4);
      await b.openConversation(alice);
      for (const tab of [a, b]) {
        await until(() => tab.page.locator('.message[data-id]').count()).toBe(4);
        const natural = () => tab.page.locator('.picture img').evaluateAll((images) => images.map((image) => (image as HTMLImageElement).naturalWidth));
        await until(natural).toEqual([1]);
        expect(await tab.page.locator('.file bdi').allInnerTexts()).toEqual(['Zusammenfassung für Bob (2).pdf', 'evil.svg', 'evil.html']);
      }
      const [download] = await Promise.all([b.page.waitForEvent('download'), b.page.getByRole('button', { name: /Zusammenfassung/ }).click()]);
      expect(download.suggestedFilename()).toBe('Zusammenfassung für Bob (2).pdf');
      expect(readFileSync(await download.path())).toEqual(notes);
      const [saved] = await Promise.all([b.page.waitForEvent('download'), b.page.getByRole('button', { name: /evil\.svg/ }).click()]);
      expect(readFileSync(await saved.path(), 'utf8')).toBe(evil);
      // A picture in full, and back to where one was.
      await b.page.getByRole('button', { name: /enlarge/ }).click();
      await b.page.getByRole('dialog').waitFor();
      await b.page.keyboard.press('Escape');
      await b.page.getByRole('dialog').waitFor({ state: 'detached' });
      expect(await b.page.evaluate(() => document.activeElement?.className)).toBe('picture');
      for (const tab of [a, b]) expect(await tab.page.evaluate(() => 'pwned' in window)).toBe(false);
      expect(a.failures.concat(b.failures)).toEqual([]);
      await hers.close();
      await his.close();
    });
  });
}
