/** A conversation of thousands of messages: how many are elements, how long frames take, what moves, what memory it takes. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Browser, Page } from 'playwright-core';
import { sized } from '../../driver/test/support/sized';
import { launch, person, Tab } from './harness/browser';
import { Server } from './harness/server';

const COUNT = sized(2_000, 10_000);
const LIMIT = 60_000;
const WORDS = 'the quick brown fox jumps over the lazy dog and goes on to the river where nothing is ever lost';

let browser: Browser;
let server: Server;
beforeAll(async () => {
  [browser, server] = await Promise.all([launch(), Server.start('SQLite')]);
  // Of one to several lines.
  const texts = Array.from({ length: COUNT }, (_, n) => `${n}: ${WORDS.slice(0, 8 + ((n * 37) % 90)).repeat(1 + (n % 7 === 0 ? 2 : 0))}`);
  await server.sendMany('bob', 'alice', texts.slice(0, COUNT / 2));
  await server.sendMany('alice', 'bob', texts.slice(COUNT / 2));
});
afterAll(async () => {
  await Promise.all([browser.close(), server.remove()]);
});

test('thousands of messages are scrolled through with few elements, short frames, little memory, and nothing moves by itself', { timeout: 600_000 }, async () => {
  const context = await person(browser);
  const tab = await Tab.signedIn(context, server.url, 'alice');
  const devtools = await context.newCDPSession(tab.page);
  await devtools.send('Performance.enable');
  const heap = async () => {
    await devtools.send('HeapProfiler.collectGarbage');
    const { metrics } = await devtools.send('Performance.getMetrics');
    return (metrics.find(({ name }) => name === 'JSHeapUsedSize')?.value ?? 0) / 1e6;
  };
  await tab.openConversation('bob');
  await tab.messages.first().waitFor();
  const heapBefore = await heap();

  const travel = await scrollUp(tab.page, true);
  const grown = (await heap()) - heapBefore;
  console.log(
    `MEASURED ${COUNT} messages: at most ${travel.most} elements; frames p50 ${travel.p50.toFixed(1)} ms, p95 ${travel.p95.toFixed(1)} ms, ` +
      `longest ${travel.longest.toFixed(1)} ms of ${travel.frames}; moved ${travel.moved} px while ${travel.prepended} pages came before; ` +
      `${travel.blank} frames with nothing in the middle; heap ${heapBefore.toFixed(1)} MB, grown by ${grown.toFixed(1)} MB`,
  );
  expect(travel.seen).toBe(COUNT);
  expect(travel.prepended).toBeGreaterThan(COUNT / 200);
  expect(travel.most).toBeLessThanOrEqual(200);
  expect(travel.moved).toBe(0);
  expect(travel.blank).toBe(0);
  // 3 kB for each message.
  expect(grown).toBeLessThan(COUNT * 0.003);
  // Others use this machine too, and make frames longer, never shorter: the best of a few passes counts.
  let { p95 } = travel;
  for (let passes = 1; p95 > 50 && passes < 8; passes += 1) {
    p95 = Math.min(p95, (await scrollUp(tab.page, false)).p95);
    console.log(`MEASURED once more: frames p95 ${p95.toFixed(1)} ms`);
  }
  expect(p95).toBeLessThanOrEqual(50);

  // Somebody writes while one reads what is old: nothing moves, and there is a way to it.
  const before = await tab.page.evaluate(() => document.querySelectorAll('.message')[5]?.getBoundingClientRect().top);
  await server.send('bob', 'alice', 'the newest');
  const toTheEnd = tab.page.getByRole('button', { name: '1 new messages, to the newest' });
  await toTheEnd.waitFor();
  expect(await tab.page.evaluate(() => document.querySelectorAll('.message')[5]?.getBoundingClientRect().top)).toBe(before);
  await toTheEnd.click();
  await expect.poll(() => tab.texts(), { timeout: LIMIT }).toContain('the newest');
  await expect.poll(() => tab.unread('bob'), { timeout: LIMIT }).toBe(0);
  expect(await tab.messages.count()).toBeLessThanOrEqual(200);
  // And whoever writes sees it.
  await tab.scroller.evaluate((scroller) => (scroller.scrollTop = 5000));
  await toTheEnd.or(tab.page.getByRole('button', { name: 'To the newest' })).waitFor();
  await tab.say('an answer');
  await expect.poll(() => tab.texts(), { timeout: LIMIT }).toContain('an answer');
  const rest = () => tab.scroller.evaluate((scroller) => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight);
  await expect.poll(rest, { timeout: LIMIT }).toBe(0);
  expect(tab.failures).toEqual([]);
  await context.close();
});

/** From the end to the beginning, by 240 pixels a frame; or, when all is loaded, over a part of it. */
function scrollUp(page: Page, whole: boolean) {
  return page.evaluate(async (whole) => {
    const scroller = document.querySelector('.scroller');
    if (!scroller) throw new Error('no conversation is open');
    const frame = () => new Promise<number>((resolve) => requestAnimationFrame(resolve));
    const begins = () => document.querySelector('.edge')?.textContent?.includes('begins') ?? false;
    scroller.scrollTop = scroller.scrollHeight;
    await frame();
    await frame();
    const view = scroller.getBoundingClientRect();
    const times: number[] = [];
    const seen = new Set<string>();
    let [most, moved, prepended, blank] = [0, 0, 0, 0];
    let [last, height] = [await frame(), scroller.scrollHeight];
    const end = performance.now() + 400_000;
    while (!(begins() && scroller.scrollTop === 0) && (whole || times.length < 300)) {
      if (performance.now() > end) throw new Error(`it stood still at ${scroller.scrollTop}, ${seen.size} seen`);
      const rows = [...document.querySelectorAll<HTMLElement>('.message')];
      const anchor = rows.find((row) => row.getBoundingClientRect().bottom > view.top);
      const top = anchor?.getBoundingClientRect().top ?? 0;
      const step = Math.min(240, scroller.scrollTop);
      scroller.scrollTop -= step;
      const now = await frame();
      times.push(now - last);
      last = now;
      // It is where scrolling has put it, to the pixel, whatever came before it meanwhile.
      const is = anchor?.isConnected ? anchor.getBoundingClientRect().top : Infinity;
      moved = Math.max(moved, Math.abs(is - top - step));
      if (scroller.scrollHeight > height + 1000) prepended += 1;
      height = scroller.scrollHeight;
      most = Math.max(most, rows.length);
      for (const row of rows) seen.add(row.dataset['seq'] ?? '');
      const middle = document.elementFromPoint(view.left + view.width / 2, view.top + view.height / 2);
      if (!middle?.closest('.message, .edge')) blank += 1;
    }
    for (const row of document.querySelectorAll<HTMLElement>('.message')) seen.add(row.dataset['seq'] ?? '');
    times.sort((a, b) => a - b);
    const quantile = (q: number) => times[Math.floor((times.length - 1) * q)] ?? Infinity;
    return { frames: times.length, p50: quantile(0.5), p95: quantile(0.95), longest: quantile(1), seen: seen.size, most, moved, prepended, blank };
  }, whole);
}
