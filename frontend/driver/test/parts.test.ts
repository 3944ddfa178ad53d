/** The small parts, by themselves. */
import { expect, test } from 'vitest';

import { ChatError } from '../src/errors.js';
import { connect } from '../src/index.js';
import { backoff, Pause, pauseAfter, told } from '../src/time.js';
import { fromBase64, refusal, userOf, toBase64 } from '../src/wire.js';
import { atEnd, Observed, QUICK } from './support/observed.js';
import { tokenOf } from './support/scripted.js';

test('a connection cuts a pause short, but not one that the server asked for; a reason to hope cuts both', async () => {
  const pause = new Pause();
  const order: string[] = [];
  const soft = pause.wait(600_000).then(() => order.push('soft'));
  const firm = pause.wait(600_000, true).then(() => order.push('firm'));
  pause.cut();
  await soft;
  expect(order).toEqual(['soft']);
  pause.end();
  await firm;
  expect(order).toEqual(['soft', 'firm']);
});

test('pauses double up to their limit, with chance in them, and are never shorter than what was asked for', () => {
  for (let failures = 0; failures < 2000; failures++) {
    const full = Math.min(30_000, 500 * 2 ** failures);
    const pause = backoff(failures, 500, 30_000);
    expect(pause >= full / 2 && pause <= full).toBe(true);
  }
  expect(new Set(Array.from({ length: 50 }, () => backoff(3, 500, 30_000))).size).toBeGreaterThan(1);
  const asked = pauseAfter(new ChatError('overloaded', '', { status: 503, retryAfter: 2 }), 9, QUICK);
  expect(asked >= 2000 && asked <= 2400).toBe(true);
  for (const retryAfter of [61, 3600, 2_147_484, 1e300, Infinity]) {
    const asked = pauseAfter(new ChatError('overloaded', '', { status: 503, retryAfter }), 0, QUICK);
    expect(asked >= 60_000 && asked <= 72_000).toBe(true);
  }
});

test('a time that somebody else tells is kept within its limits, or is none', () => {
  for (const [said, is] of [[0, 1], [0.001, 1], [15, 15], [300, 300], [301, 300], [1e300, 300], [Infinity, 300]] as const) expect(told(said, 1, 300)).toBe(is);
  for (const said of [-1, NaN, -Infinity, undefined, null, '5', {}, []]) expect(told(said, 1, 300)).toBeUndefined();
});

test('a date to come back at is read by the clock of whoever wrote it', () => {
  const at = (headers: Record<string, string>) => refusal(503, '', new Headers(headers)).retryAfter;
  const date = 'Tue, 01 Dec 2026 10:00:00 GMT';
  expect(at({ 'Retry-After': 'Tue, 01 Dec 2026 10:00:07 GMT', Date: date })).toBe(7);
  expect(at({ 'Retry-After': date, Date: 'Tue, 01 Dec 2026 10:00:07 GMT' })).toBeUndefined();
  const soon = at({ 'Retry-After': new Date(Date.now() + 60_000).toUTCString() })!;
  expect(soon > 55 && soon <= 60).toBe(true);
  for (const said of ['', '-1', 'NaN', 'soon', '1e3', '0x10', '2026']) expect([said, at({ 'Retry-After': said })]).toEqual([said, said === '2026' ? 2026 : undefined]);
});

test('bytes survive base64, however many', () => {
  for (const length of [0, 1, 2, 3, 100_000]) {
    const bytes = Uint8Array.from({ length }, (_, index) => (index * 7) % 256);
    expect(toBase64(bytes)).toBe(Buffer.from(bytes).toString('base64'));
    expect(Buffer.compare(fromBase64(toBase64(bytes)), bytes)).toBe(0);
  }
});

test('the user of a token is read, and what is no token is nobody', () => {
  const claims = Buffer.from(JSON.stringify({ sub: 'zoë~?>', exp: 1 })).toString('base64url');
  expect(userOf(`e30.${claims}.x`)).toBe('zoë~?>');
  for (const token of ['', 'opaque', 'a.b.c', `x.${Buffer.from('[1]').toString('base64url')}.x`, 'x.bnVsbA.x']) {
    expect(userOf(token)).toBeUndefined();
  }
  const own = `x.${Buffer.from(JSON.stringify({ sub: 'auth0|1', 'https://e.com/id': 'alice', number: 17 })).toString('base64url')}.x`;
  expect(['sub', 'https://e.com/id', 'number', 'none'].map((claim) => userOf(own, claim))).toEqual(['auth0|1', 'alice', '17', undefined]);
});

test('what is refused has the code of the server, and what a proxy says is told apart', () => {
  const problem = { code: 'content_too_large', status: 413, title: 'Too large', detail: 'the limit is 3', request_id: 'r' };
  expect(refusal(413, problem)).toMatchObject({ code: 'content_too_large', status: 413, message: 'the limit is 3', temporary: false });
  expect(refusal(502, '<html>', new Headers({ 'Retry-After': '7' }))).toMatchObject({ code: 'answer_invalid', status: 502, retryAfter: 7, temporary: true, problem: undefined });
  expect(refusal(503, { code: 'starting', status: 503, title: 's', retry_after: 1 })).toMatchObject({ retryAfter: 1, temporary: true });
});

test('a stream is read whatever pieces it comes in', async () => {
  const event = (position: number, text: string) => ({
    cursor: `e:${position}`,
    prev: `e:${position - 1}`,
    position,
    type: 'message.sent',
    conversation_id: 'alice,bob',
    actor_id: 'bob',
    occurred_at: '',
    message: { _id: position, conversation_id: 'alice,bob', seq: position, sender_id: 'bob', receiver_id: 'alice', sent_at: 1, received_at: null, text },
  });
  const text = [
    'retry: 2000\n\n: a comment\n\n',
    `event: ready\nid: e:0\ndata: {"cursor":"e:0","heartbeat_s":600}\n\n`,
    `id: e:1\ndata: ${JSON.stringify(event(1, 'größer ✓'))}\n\n`,
    'event: presence\r\ndata: {}\r\n\r\n',
    `id: e:2\r\ndata:${JSON.stringify(event(2, 'two'))}\r\n\r\n`,
    'event: typing\n\n',
    `data: ${JSON.stringify(event(3, 'three')).replace(',"message"', ',\ndata: "message"')}\n\n`,
  ].join('');
  const bytes = new TextEncoder().encode(text);
  for (const size of [1, 2, 3, 7, 64, bytes.length]) {
    const stream: typeof fetch = async (_, init) =>
      new Response(
        new ReadableStream({
          start(controller) {
            for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
            init?.signal?.addEventListener('abort', () => controller.error(new Error('aborted')));
          },
        }),
        { headers: { 'Content-Type': 'text/event-stream; charset=utf-8' } },
      );
    const chat = connect({ url: 'http://127.0.0.1:9', token: tokenOf('alice'), transports: ['sse'], fetch: stream, after: 'e:0', timing: QUICK });
    atEnd(() => chat.close());
    await new Observed(chat).gave(['größer ✓', 'two', 'three']);
  }
});
