/** The small parts, by themselves. */
import { expect, test } from 'vitest';

import { ChatError } from '../src/errors.js';
import { connect } from '../src/index.js';
import { backoff, Pause, pauseAfter } from '../src/time.js';
import { fromBase64, refusal, subjectOf, toBase64 } from '../src/wire.js';
import { atEnd, Observed, QUICK } from './support/observed.js';
import { tokenOf } from './support/scripted.js';

test('a pause is cut short by a reason to hope, but not one that the server asked for', async () => {
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
  const told = pauseAfter(new ChatError('overloaded', '', { status: 503, retryAfter: 2 }), 9, QUICK);
  expect(told >= 2000 && told <= 2400).toBe(true);
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
  expect(subjectOf(`e30.${claims}.x`)).toBe('zoë~?>');
  for (const token of ['', 'opaque', 'a.b.c', `x.${Buffer.from('[1]').toString('base64url')}.x`, 'x.bnVsbA.x']) {
    expect(subjectOf(token)).toBeUndefined();
  }
});

test('what is refused has the code of the server, and what a proxy says is told apart', () => {
  const problem = { code: 'content_too_large', status: 413, title: 'Too large', detail: 'the limit is 3', request_id: 'r' };
  expect(refusal(413, problem)).toMatchObject({ code: 'content_too_large', status: 413, message: 'the limit is 3', temporary: false });
  expect(refusal(502, '<html>', '7')).toMatchObject({ code: 'answer_invalid', status: 502, retryAfter: 7, temporary: true, problem: undefined });
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
