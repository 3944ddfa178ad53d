/** Where a conversation begins for somebody who was away, and what counts as read: what was in view, and no more. */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Browser, BrowserContext } from 'playwright-core';
import { launch, person, Tab } from './harness/browser';
import { Server } from './harness/server';

const LIMIT = 20_000;
const until = <T>(what: () => Promise<T>) => expect.poll(what, { timeout: LIMIT, interval: 50 });

let browser: Browser;
let server: Server;
beforeAll(async () => {
  [browser, server] = await Promise.all([launch(), Server.start('SQLite')]);
});
afterAll(async () => {
  await Promise.all([browser.close(), server.remove()]);
});

/** Notes in each frame which messages are wholly in view, by their `seq`. */
const watch = (context: BrowserContext): Promise<unknown> =>
  context.addInitScript(() => {
    const seen = { now: [] as number[], ever: new Set<number>() };
    const note = () => {
      const view = document.querySelector('.scroller')?.getBoundingClientRect();
      seen.now = [...document.querySelectorAll<HTMLElement>('.message[data-seq]')]
        .filter((row) => {
          const { top, bottom } = row.getBoundingClientRect();
          return view && top >= view.top - 1 && bottom <= view.bottom + 1;
        })
        .map((row) => Number(row.dataset['seq']));
      for (const seq of seen.now) seen.ever.add(seq);
      requestAnimationFrame(note);
    };
    requestAnimationFrame(note);
    Object.assign(window, { seen });
  });
interface Seen {
  now: number[];
  ever: Set<number>;
}
const inView = (tab: Tab): Promise<number[]> => tab.page.evaluate(() => (window as unknown as { seen: Seen }).seen.now);
const everInView = (tab: Tab): Promise<number[]> => tab.page.evaluate(() => [...(window as unknown as { seen: Seen }).seen.ever]);
const lastInView = async (tab: Tab): Promise<number> => Math.max(0, ...(await inView(tab)));

/** Until what is in view and how far is read stay as they are. */
async function settled(tab: Tab, me: string, peer: string): Promise<{ seen: number[]; read: number }> {
  let before = '';
  let now = { seen: [] as number[], read: -1 };
  await until(async () => {
    now = { seen: await inView(tab), read: await server.readMark(me, peer) };
    const same = JSON.stringify(now) === before;
    before = JSON.stringify(now);
    await tab.page.waitForTimeout(300);
    return same && now.seen.length > 0 && now.read >= (now.seen[now.seen.length - 1] ?? 0);
  }).toBe(true);
  return now;
}

const file = () => ({ data: randomBytes(240_000), type: "application/zip; name*=UTF-8''all.zip" });

for (const phone of [false, true]) {
  for (const [what, count, read] of [
    ['450 texts', 450, 0],
    ['450 texts after 70 that were read', 450, 70],
    ['30 files of 240 kB', 30, 0],
  ] as const) {
    const files = what.includes('files');
    test(`${what}, unread, begin with the first${phone ? ', on a phone' : ''}`, { timeout: 60_000 }, async () => {
      const [me, peer] = [`${phone}-${count}-${read}-me`.replace(/ /g, ''), `${phone}-${count}-${read}-${files}`];
      for (let n = 1; n <= read; n += 1) await server.send(peer, me, `read ${n}`);
      if (read > 0) await server.markRead(me, peer);
      for (let n = read + 1; n <= read + count; n += 1) await server.send(peer, me, files ? file() : `unread ${n}`);
      const total = read + count;
      const context = await person(browser, { phone });
      await watch(context);
      const tab = await Tab.signedIn(context, server.url, me);
      await until(() => tab.unread(peer)).toBe(count);
      await tab.openConversation(peer);
      await until(() => tab.page.locator('.new').evaluateAll((all) => all.map((one) => (one.parentElement as HTMLElement).dataset['seq']))).toEqual([String(read + 1)]);
      const first = await settled(tab, me, peer);
      expect(first.seen).toContain(read + 1);
      // What was in view is read, and the last is not.
      expect(first.read).toBe(first.seen[first.seen.length - 1]);
      expect(first.read).toBeGreaterThan(read);
      expect(first.read).toBeLessThan(total);
      expect(await tab.unread(peer)).toBe(total - first.read);

      // A look at what is further down is no reading of what is between.
      if (!files) {
        await tab.scroller.evaluate((scroller) => (scroller.scrollTop += 4 * scroller.clientHeight));
        await until(() => lastInView(tab)).toBeGreaterThan(first.read + 20);
        await tab.page.waitForTimeout(500);
        expect(await server.readMark(me, peer)).toBe(first.read);
        await tab.scroller.evaluate((scroller) => (scroller.scrollTop -= 4 * scroller.clientHeight));
      }
      // By scrolling on it is read on.
      await tab.scroller.evaluate((scroller) => (scroller.scrollTop += scroller.clientHeight / 2));
      await until(() => lastInView(tab)).toBeGreaterThan(first.read);
      const second = await settled(tab, me, peer);
      expect(second.read).toBeGreaterThan(first.read);
      const ever = new Set(await everInView(tab));
      expect(Array.from({ length: second.read - read }, (_, n) => read + 1 + n).filter((seq) => !ever.has(seq))).toEqual([]);
      expect(second.read).toBeLessThan(total);

      // What comes meanwhile moves nothing, and is counted.
      const top = () => tab.page.locator(`[data-seq="${second.read}"]`).evaluate((row) => Math.round(row.getBoundingClientRect().top));
      const before = await top();
      await server.send(peer, me, 'the newest');
      await until(() => tab.unread(peer)).toBe(total + 1 - second.read);
      expect(await top()).toBe(before);
      // And there is a way to the end.
      await tab.page.getByRole('button', { name: `${total + 1 - second.read} new messages, to the newest` }).click();
      await until(() => lastInView(tab)).toBe(total + 1);
      await until(() => tab.unread(peer)).toBe(0);
      await until(() => server.readMark(me, peer)).toBe(total + 1);
      // From there all can be had, each once.
      if (!files) {
        const all = await tab.all();
        expect(all.map(({ seq }) => seq)).toEqual(Array.from({ length: total + 1 }, (_, n) => n + 1));
      }
      expect(tab.failures).toEqual([]);
      await context.close();
    });
  }
}

test('what comes while nobody looks is not scrolled away, and is read when it is seen', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  await watch(context);
  await context.addInitScript(() => {
    Document.prototype.hasFocus = () => !('away' in window);
  });
  await server.send('ann', 'away', 'the first');
  const tab = await Tab.signedIn(context, server.url, 'away');
  await tab.openConversation('ann');
  await until(() => server.readMark('away', 'ann')).toBe(1);
  await tab.page.evaluate(() => Object.assign(window, { away: true }));
  for (let n = 2; n <= 120; n += 1) await server.send('ann', 'away', `while away ${n}`);
  await until(() => tab.unread('ann')).toBe(119);
  expect(await inView(tab)).toContain(2);
  await tab.page.evaluate(() => {
    delete (window as { away?: boolean }).away;
    dispatchEvent(new Event('focus'));
  });
  const { seen, read } = await settled(tab, 'away', 'ann');
  expect(seen).toContain(2);
  expect(read).toBe(seen[seen.length - 1]);
  expect(read).toBeLessThan(120);
  await context.close();
});

test('whoever writes from among what is unread is at the end, and what was written is there once', { timeout: 60_000 }, async () => {
  const context = await person(browser);
  await watch(context);
  await server.sendMany('bea', 'writer', Array.from({ length: 450 }, (_, n) => `unread ${n}`));
  const tab = await Tab.signedIn(context, server.url, 'writer');
  await tab.openConversation('bea');
  await settled(tab, 'writer', 'bea');
  await tab.say('an answer');
  await until(() => tab.texts()).toContain('an answer');
  await until(() => lastInView(tab)).toBe(451);
  await until(() => tab.unread('bea')).toBe(0);
  expect((await tab.texts()).filter((text) => text === 'an answer')).toHaveLength(1);
  expect(tab.failures).toEqual([]);
  await context.close();
});
