/** What is asked of the server is what its documents name, and what it says that it knows. */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

import { expect, test } from 'vitest';

import type { Transport } from '../src/index.js';
import { fields } from '../src/features.js';
import { TRANSPORTS } from '../src/ladder.js';
import { atEnd, observe, scripted, until, type Observed } from './support/observed.js';
import type { Scripted } from './support/scripted.js';

const documents = (name: string) => JSON.parse(readFileSync(new URL(`../../../openapi/${name}`, import.meta.url), 'utf8'));
const [openapi, asyncapi] = [documents('openapi.json'), documents('asyncapi.json')];

/** The properties of a schema, wherever it takes them from. */
function properties(schema: Record<string, any>, schemas: Record<string, any>): Set<string> {
  const found = new Set<string>(Object.keys(schema['properties'] ?? {}));
  const others = [schema['$ref'] && schemas[schema['$ref'].split('/').at(-1)], ...['oneOf', 'anyOf', 'allOf'].flatMap((way) => schema[way] ?? [])];
  for (const other of others) if (other) for (const name of properties(other, schemas)) found.add(name);
  return found;
}

const SCHEMAS: Record<string, string> = { send: 'Send', receipt: 'SendReceipt', history: 'ListMessages', conversations: 'ListConversations', resume: 'Resume', authenticate: 'Authenticate' };

/** Everything that a chat can ask. */
async function everything(server: Scripted, watched: Observed): Promise<void> {
  const { chat } = watched;
  await watched.connected();
  await chat.send({ to: 'bob', text: 'one' }).sent;
  await chat.send({ to: 'bob', data: new Uint8Array(1), contentType: 'image/png', key: 'mine' }).sent;
  const message = server.message('two');
  await chat.received(message);
  await chat.read(message);
  // An application in JavaScript may say more than the types allow.
  const more = { with: 'bob', limit: 1, before: 3, limt: 1, lastEventId: 'e:0' };
  await chat.history(more).next();
  const others = { limit: 1, before: 9, key: 'x' };
  await chat.conversations(others).next();
}

test.each(TRANSPORTS)('every request has the parameters, fields and headers that the documents name, and no others, over %s', async (rung: Transport) => {
  const server = await scripted();
  const asked: { method: string; url: URL; headers: Record<string, unknown>; body: string }[] = [];
  const spy: typeof fetch = async (url, init) => {
    asked.push({ method: init?.method ?? 'GET', url: new URL(String(url)), headers: (init?.headers ?? {}) as Record<string, unknown>, body: String(init?.body ?? '') });
    return fetch(url, init);
  };
  const watched = observe(server, { transports: [rung], fetch: spy, load: { with: ['bob'] } });
  await everything(server, watched);
  expect(asked.length).toBeGreaterThan(1);
  for (const { method, url, headers, body } of asked) {
    const operation = openapi.paths[url.pathname]?.[method.toLowerCase()];
    expect([url.pathname, operation !== undefined]).toEqual([url.pathname, true]);
    const named = (place: string) => (operation.parameters ?? []).filter((parameter: { in: string }) => parameter.in === place).map(({ name }: { name: string }) => name);
    expect(named('query')).toEqual(expect.arrayContaining([...url.searchParams.keys()]));
    expect([...named('header'), 'Accept', 'Authorization', 'Content-Type']).toEqual(expect.arrayContaining(Object.keys(headers)));
    if (body === '') continue;
    const known = properties(operation.requestBody.content['application/json'].schema, openapi.components.schemas);
    expect([...known]).toEqual(expect.arrayContaining(Object.keys(JSON.parse(body))));
    expect(known.has('key')).toBe(false);
  }
  const bySocket = server.commands.filter(({ over }) => over === 'socket');
  for (const { name, payload } of bySocket) {
    const known = properties(asyncapi.components.schemas[SCHEMAS[name]!], asyncapi.components.schemas);
    expect([name, ...known]).toEqual(expect.arrayContaining(Object.keys(payload)));
  }
  if (rung === 'websocket') expect(new Set(bySocket.map(({ name }) => name))).toEqual(new Set(['send', 'receipt', 'history', 'conversations']));
});

test('a handshake has a token and a place, and nothing else', async () => {
  const paths: URL[] = [];
  const server = createServer((request, response) => {
    paths.push(new URL(request.url!, 'http://127.0.0.1'));
    response.writeHead(503).end();
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  atEnd(() => new Promise((closed) => server.close(closed)));
  observe({ url: `http://127.0.0.1:${(server.address() as { port: number }).port}` }, { after: 'e:0', transports: ['polling'] });
  await until(() => paths.length > 0, 'it comes');
  expect([...paths[0]!.searchParams.keys()].filter((name) => name !== 't').sort()).toEqual(['EIO', 'transport']);
  expect(properties(asyncapi.components.schemas.Connect, asyncapi.components.schemas)).toEqual(new Set(['token', 'after']));
});

test.each(['websocket', 'polling', 'sse'] as const)('what the server can do is what its `ready` says, over %s', async (rung) => {
  const server = await scripted();
  server.features = ['rooms', 7, 'edits'];
  const watched = observe(server, { transports: [rung] });
  expect(watched.chat.features).toEqual([]);
  await watched.connected();
  expect(watched.chat.features).toEqual(['rooms', 'edits']);
  // Another node, of an older version.
  server.features = undefined;
  server.dismiss('shutdown', 0);
  await until(() => watched.chat.features.length === 0, 'it knows no more');
});

test.each([undefined, null, 'rooms', {}, 1])('features of %j are none', async (said) => {
  const server = await scripted();
  server.features = said;
  const watched = observe(server, { transports: ['sse'] });
  await watched.connected();
  expect(watched.chat.features).toEqual([]);
});

test('a field goes out where the server knows it, and one that nobody knows never does', () => {
  const given = { receiver_id: 'bob', text: 'x', data: undefined, mentions: ['bob'], constructor: 1 };
  for (const features of [[], ['mentions'], ['undefined'], ['constructor']]) expect(fields('send', given, features)).toEqual({ receiver_id: 'bob', text: 'x' });
  const known = { send: { text: true, mentions: 'mentions' } } as const;
  expect(fields('send', given, [], known)).toEqual({ text: 'x' });
  expect(fields('send', given, ['rooms', 'mentions'], known)).toEqual({ text: 'x', mentions: ['bob'] });
});
