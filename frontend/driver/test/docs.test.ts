/** What docs/client.md shows, taken out of it and run against the real server. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { build } from 'esbuild';
import type { Page } from 'playwright-core';
import { beforeEach, describe, expect, test } from 'vitest';

import { browser, IN_A_BROWSER } from './support/browser.js';
import { atEnd, observe, until } from './support/observed.js';
import { Proxy } from './support/proxy.js';
import { Real, tokenFor } from './support/real.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const guide = readFileSync(`${root}../../docs/client.md`, 'utf8');

/** The one block of code of a section. */
function code(heading: string, language: string): string {
  const section = guide.split(/^## /m).find((text) => text.startsWith(`${heading}\n`));
  const blocks = [...(section ?? '').matchAll(/^```(\w+)\n(.*?)^```$/gms)];
  expect(blocks.map(([, language]) => language)).toEqual([language]);
  return blocks[0]![2]!;
}

/** A folder in which the packages can be imported by their names, as if they were installed. */
let folder = '';
beforeEach(() => {
  folder = mkdtempSync(`${tmpdir()}/chat-docs-`);
  mkdirSync(`${folder}/node_modules`);
  symlinkSync(root, `${folder}/node_modules/chat-system-client`);
  symlinkSync(`${root}node_modules/socket.io-client`, `${folder}/node_modules/socket.io-client`);
  atEnd(async () => rmSync(folder, { recursive: true }));
});

test('each of its examples is run here', () => {
  const headings = [...guide.matchAll(/^## (.*)$/gm)].map(([, heading]) => heading);
  expect(headings).toEqual(['A script tag', 'A bundler', 'A bot in Node', 'A plain EventSource', 'curl', 'socket.io-client, without the library']);
});

describe('in a browser', IN_A_BROWSER, () => {
  async function site(files: [string, string, string][]): Promise<{ proxy: Proxy; server: Real; visit(query: string): Promise<Page> }> {
    const server = await Real.start({ development: true });
    const proxy = await Proxy.before(server);
    for (const [path, type, body] of files) proxy.files.set(path, { type, body });
    const { newPage } = await browser();
    const visit = async (query: string) => {
      const page = await newPage();
      await page.goto(`${proxy.url}/page?${query}`);
      return page;
    };
    return { proxy, server, visit };
  }
  const lines = (page: Page) => page.locator('li').allTextContents();
  const shown = async (page: Page, texts: string[]) => {
    let last: string[] = [];
    const are = async () => JSON.stringify((last = await lines(page))) === JSON.stringify(texts);
    await until(are, () => `the page shows ${texts}; it shows ${last}`);
  };

  test('a script tag', async () => {
    const library = readFileSync(`${root}dist/chat-system-client.js`, 'utf8');
    const { proxy, visit } = await site([
      ['/page', 'text/html', code('A script tag', 'html')],
      ['/chat-system-client.js', 'text/javascript', library],
    ]);
    const [alice, bob] = [await visit('me=alice&with=bob'), await visit('me=bob&with=alice')];
    for (const page of [alice, bob]) await page.locator('#status', { hasText: 'connected by websocket' }).waitFor();
    const say = async (page: Page, text: string) => {
      await page.locator('#text').fill(text);
      await page.locator('button').click();
    };
    await say(alice, 'hello <b>bob</b>');
    await shown(bob, ['alice: hello <b>bob</b>']);
    await shown(alice, ['alice: hello <b>bob</b> (read)']);
    await say(bob, 'hello');
    await shown(alice, ['alice: hello <b>bob</b> (read)', 'bob: hello']);
    // Written without a network, and the page is closed: it goes out when it is there again.
    proxy.rules = { offline: true };
    proxy.cut();
    await say(alice, 'later');
    await shown(alice, ['alice: hello <b>bob</b> (read)', 'bob: hello', 'alice: later (pending)']);
    proxy.rules = {};
    await alice.reload();
    await shown(bob, ['alice: hello <b>bob</b>', 'bob: hello (read)', 'alice: later']);
    await until(async () => (await lines(alice)).filter((line) => line.startsWith('alice: later')).length === 1, 'it is shown once');
    expect((await lines(alice)).length).toBe(3);
  });

  test('a script tag whose page has a message of which the answer was lost', async () => {
    const library = readFileSync(`${root}dist/chat-system-client.js`, 'utf8');
    const { proxy, server, visit } = await site([
      ['/page', 'text/html', code('A script tag', 'html')],
      ['/chat-system-client.js', 'text/javascript', library],
    ]);
    const alice = await visit('me=alice&with=bob');
    await alice.locator('#status', { hasText: 'connected by websocket' }).waitFor();
    proxy.rules = { offline: true };
    proxy.cut();
    await alice.locator('#text').fill('once');
    await alice.locator('button').click();
    await shown(alice, ['alice: once (pending)']);
    // What went out under its key before the page was gone is in the log.
    const stored = () =>
      alice.evaluate(
        () =>
          new Promise<string[]>((resolve) => {
            const opening = indexedDB.open('chat-system');
            opening.onsuccess = () => {
              const reading = opening.result.transaction('values').objectStore('values').getAllKeys();
              reading.onsuccess = () => resolve(reading.result.map(String).filter((name) => name.includes('/outgoing/')));
            };
          }),
      );
    await until(async () => (await stored()).length === 1, 'it is stored');
    const key = (await stored())[0]!.split('/').at(-1)!;
    const { token } = (await (await fetch(`${server.url}/dev/token`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"user_id":"alice"}' })).json()) as { token: string };
    const headers = { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json', 'Idempotency-Key': key };
    const body = JSON.stringify({ receiver_id: 'bob', text: 'once' });
    expect((await fetch(`${server.url}/v1/messages`, { method: 'POST', headers, body })).status).toBe(201);
    proxy.rules = {};
    await alice.reload();
    await shown(alice, ['alice: once (sent)']);
  });

  test('a bundler', async () => {
    writeFileSync(`${folder}/chat.ts`, code('A bundler', 'ts'));
    const compiler = { extends: `${root}tsconfig.json`, compilerOptions: { types: [], noPropertyAccessFromIndexSignature: true }, include: ['chat.ts'] };
    writeFileSync(`${folder}/tsconfig.json`, JSON.stringify(compiler));
    await promisify(execFile)(`${root}node_modules/.bin/tsc`, ['-p', folder]);
    await build({ entryPoints: [`${folder}/chat.ts`], bundle: true, format: 'esm', outfile: `${folder}/chat.js`, logLevel: 'error' });
    const { server, visit } = await site([
      ['/page', 'text/html', '<!doctype html><meta charset="utf-8"><title>x</title><body><script type="module" src="/chat.js"></script>'],
      ['/chat.js', 'text/javascript', readFileSync(`${folder}/chat.js`, 'utf8')],
    ]);
    const [alice, bob] = [await visit('me=alice&with=bob'), await visit('me=bob&with=alice')];
    await alice.getByRole('button', { name: 'Say hi' }).click();
    await bob.locator('nav', { hasText: 'alice: 1 unread' }).waitFor();
    await alice.getByRole('button', { name: 'Send a picture' }).click();
    await bob.locator('nav', { hasText: 'alice: 2 unread' }).waitFor();
    await bob.locator('main img').waitFor();
    await until(() => bob.evaluate(() => document.images[0]!.naturalWidth === 8), 'the picture is one');
    // What is no picture of points, whatever it calls itself, is no address of the page's origin.
    const { token } = (await (await fetch(`${server.url}/dev/token`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"user_id":"alice"}' })).json()) as { token: string };
    const headers = { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' };
    const body = JSON.stringify({ receiver_id: 'bob', data: btoa('\xff<svg xmlns="http://www.w3.org/2000/svg"/>'), content_type: 'image/svg+xml' });
    expect((await fetch(`${server.url}/v1/messages`, { method: 'POST', headers, body })).status).toBe(201);
    await until(async () => (await bob.locator('main p').count()) === 3, 'it has come');
    expect(await bob.locator('main').innerHTML()).toContain('<button>Save (image/svg+xml)</button>');
    expect(await bob.locator('main img').count()).toBe(1);
    await bob.getByRole('button', { name: 'Read' }).click();
    await bob.locator('nav', { hasText: 'alice: 0 unread' }).waitFor();
    await bob.reload();
    await bob.locator('nav', { hasText: 'alice: 0 unread' }).waitFor();
    await until(async () => (await bob.locator('main p').count()) === 3, 'history is shown');
  });

  test('a plain EventSource', async () => {
    const { server, proxy, visit } = await site([['/page', 'text/html', code('A plain EventSource', 'html')]]);
    const alice = await visit('me=alice&with=bob');
    await alice.waitForFunction(() => 'send' in window);
    const send = (text: string) => alice.evaluate((text) => (window as unknown as { send(text: string): Promise<unknown> }).send(text), text);
    await send('one');
    await shown(alice, ['alice: one']);
    proxy.cut();
    await send('two');
    await shown(alice, ['alice: one', 'alice: two']);
    await server.kill('SIGTERM');
    await server.begin();
    await alice.reload();
    await shown(alice, ['alice: one', 'alice: two']);
  });
});

describe('outside of a browser', () => {
  function run(file: string, args: string[], env: Record<string, string>): ChildProcess & { said: string } {
    const child = spawn(process.execPath, [`${folder}/${file}`, ...args], { cwd: folder, env: { ...process.env, ...env } }) as ChildProcess & { said: string };
    child.said = '';
    child.stdout!.on('data', (data) => (child.said += data));
    child.stderr!.on('data', (data) => (child.said += data));
    atEnd(async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    });
    return child;
  }

  test('a bot in Node answers each message once, however often it is killed', async () => {
    writeFileSync(`${folder}/bot.mjs`, code('A bot in Node', 'js'));
    const server = await Real.start();
    const alice = observe(server, { token: tokenFor('alice'), after: '0' });
    const start = () => run('bot.mjs', [server.url, `${folder}/state`], { TOKEN: tokenFor('bot') });
    let bot = start();
    const texts = Array.from({ length: 60 }, (_, index) => `${index}`);
    const answers = () => alice.messages.filter(({ sender_id }) => sender_id === 'bot').map(({ text }) => text);
    for (const [index, text] of texts.entries()) {
      await alice.chat.send({ to: 'bot', text }).sent;
      if (index % 20 !== 10) continue;
      await until(() => answers().length > index - 10, () => `it answers: ${bot.said}`);
      const ended = once(bot, 'exit');
      bot.kill('SIGKILL');
      await ended;
      bot = start();
    }
    await until(() => answers().length >= texts.length, () => `all are answered: ${answers().length}, ${bot.said}`);
    expect(answers()).toEqual(texts.map((text) => `You said: ${text}`));
    const ended = once(bot, 'exit');
    bot.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
    expect(answers().length).toBe(texts.length);
  });

  test('curl', async () => {
    const server = await Real.start({ development: true });
    writeFileSync(`${folder}/client.sh`, code('curl', 'sh'));
    const { stdout } = await promisify(execFile)('bash', [`${folder}/client.sh`, server.url], { cwd: folder });
    const said = stdout.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
    const [first, replayed, bytes, polled, marks, history, refused] = said;
    expect(replayed).toEqual(first);
    expect(stdout).toMatch(/^idempotency-replayed: true/im);
    expect([first.text, bytes.data]).toEqual(['hi', '/wA=']);
    expect(polled.events.map(({ message }: { message: { _id: number } }) => message._id)).toEqual([first._id, bytes._id]);
    expect([marks.user_id, marks.read_seq]).toEqual(['bob', 2]);
    expect(history.messages.length).toBe(2);
    expect(refused.code).toBe('content_empty');
    const streamed = [...stdout.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(data!));
    expect(streamed.flatMap(({ type, message }) => (type === 'message.sent' ? [message._id] : []))).toEqual([first._id, bytes._id]);
  });

  test('socket.io-client without the library', async () => {
    writeFileSync(`${folder}/socket.mjs`, code('socket.io-client, without the library', 'js'));
    const server = await Real.start({ loses: 4 });
    const alice = run('socket.mjs', [server.url, '0'], { TOKEN: tokenFor('alice'), USER: 'bob' });
    const bob = run('socket.mjs', [server.url, '0'], { TOKEN: tokenFor('bob'), USER: 'alice' });
    const texts = Array.from({ length: 40 }, (_, index) => `${index}`);
    const got = (client: { said: string }) =>
      client.said.split('\n').filter((line) => line.startsWith('{"_id"')).map((line) => JSON.parse(line).text);
    alice.stdin!.write(texts.slice(0, 20).map((text) => `${text}\n`).join(''));
    await until(() => got(bob).length >= 10, () => `some came: ${bob.said}`);
    await server.kill();
    alice.stdin!.write(texts.slice(20).map((text) => `${text}\n`).join(''));
    await server.begin();
    await until(() => got(bob).length >= 40 && got(alice).length >= 40, () => `all came: ${bob.said}`);
    expect(got(bob)).toEqual(texts);
    expect(got(alice)).toEqual(texts);
  });
});
