/** What is shipped: small, with types, and with nothing that a worker has not. */
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

import { expect, test } from 'vitest';

const root = new URL('..', import.meta.url);
const text = (path: string) => readFileSync(new URL(path, root), 'utf8');

test('with socket.io-client in it, it is under 30 kB gzipped', () => {
  const size = gzipSync(text('dist/chat-system-client.js'), { level: 9 }).length;
  console.log(`chat-system-client.js: ${size} bytes gzipped`);
  expect(size).toBeLessThan(30_000);
});

test('socket.io-client is its only dependency, and every pinned', () => {
  const { dependencies, devDependencies } = JSON.parse(text('package.json'));
  expect(Object.keys(dependencies)).toEqual(['socket.io-client']);
  for (const version of Object.values({ ...dependencies, ...devDependencies })) expect(version).toMatch(/^\d+\.\d+\.\d+$/);
});

test('it has types, and is a module that Node takes as it is', async () => {
  expect(text('dist/index.d.ts')).toContain('connect');
  const { connect, ChatError } = await import(new URL('dist/index.js', root).href);
  expect([typeof connect, typeof ChatError]).toEqual(['function', 'function']);
});
