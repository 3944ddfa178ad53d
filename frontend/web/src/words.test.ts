import { expect, test, vi } from 'vitest';
import { readFacts } from './server';
import { isUserId, userOf } from './session';
import { dayInWords, dayNumber, inWords, statusInWords, timeInShort } from './words';

const at = (text: string) => new Date(text).getTime() / 1000;

test('days', () => {
  const now = at('2026-03-11T09:00');
  expect(dayInWords(at('2026-03-11T00:00'), now)).toBe('Today');
  expect(dayInWords(at('2026-03-10T23:59'), now)).toBe('Yesterday');
  expect(dayInWords(at('2026-03-05T12:00'), now)).toBe('Thursday');
  expect(dayInWords(at('2026-03-04T12:00'), now)).toMatch(/4/);
  expect(dayInWords(at('2025-03-04T12:00'), now)).toMatch(/2025/);
  expect(timeInShort(at('2026-03-11T08:07'), now)).toMatch(/0?8:07/);
  expect(timeInShort(at('2026-03-10T08:07'), now)).toBe('Yesterday');
  // Also across the days that have 23 or 25 hours.
  for (let day = 0; day < 400; day += 1) {
    const noon = new Date(2026, 0, 1 + day, 12).getTime() / 1000;
    const late = new Date(2026, 0, 1 + day, 23, 59).getTime() / 1000;
    expect(dayNumber(late)).toBe(dayNumber(noon));
    expect(dayNumber(new Date(2026, 0, 2 + day, 0, 1).getTime() / 1000)).toBe(dayNumber(noon) + 1);
  }
});

test('a time that the browser cannot write is written in figures, and one that is none not at all', async () => {
  vi.stubGlobal('Intl', {
    DateTimeFormat: class {
      constructor() {
        throw new RangeError('Incorrect locale information provided');
      }
    },
  });
  try {
    vi.resetModules();
    const words = await import('./words');
    const now = at('2026-03-11T09:00');
    expect(words.timeOfDay(at('2026-03-11T08:07'))).toBe('08:07');
    expect(words.whole(at('2026-03-11T08:07'))).toBe('2026-03-11 08:07');
    expect(words.dayInWords(at('2026-03-11T00:00'), now)).toBe('Today');
    expect(words.dayInWords(at('2026-03-04T12:00'), now)).toBe('2026-03-04');
  } finally {
    vi.unstubAllGlobals();
  }
  for (const none of [NaN, Infinity, 1e300]) expect(timeInShort(none)).toBe('');
});

test('a failure is told in words, one that nobody knows with its code', () => {
  expect(inWords({ code: 'rate_limited', status: 429 })).toBe('You are sending too fast.');
  expect(inWords({ code: 'content_too_large', status: 413 })).toContain('262 kB');
  expect(inWords({ code: 'of_tomorrow', status: 422 })).toContain('of_tomorrow');
  expect(inWords({ code: 'of_tomorrow', status: 503 })).not.toContain('of_tomorrow');
});

test('the connection is told in words', () => {
  expect(statusInWords({ state: 'connected', transport: 'sse' })).toBe('Connected: live, over a stream of events');
  expect(statusInWords({ state: 'waiting', retryAt: 0 })).toBe('No connection. Trying again…');
});

test('what the server tells of itself', () => {
  expect(readFacts('sign-in=development; content-limit=100')).toEqual({ development: true, contentLimit: 100, userClaim: 'sub' });
  expect(readFacts('sign-in=token; content-limit=262144; user-claim=https%3A%2F%2Fe.com%2Fid%3B1')).toEqual({
    development: false,
    contentLimit: 262_144,
    userClaim: 'https://e.com/id;1',
  });
  expect(readFacts('')).toEqual({ development: true, contentLimit: 262_144, userClaim: 'sub' });
});

test('user ids follow the grammar', () => {
  for (const good of ['a', 'A.b_c@d+e:f-g', 'x'.repeat(32)]) expect(isUserId(good)).toBe(true);
  for (const bad of ['', ' ', 'a b', 'x'.repeat(33), 'ä', 'a,b', '~room', 'a\n']) expect(isUserId(bad)).toBe(false);
});

test('a token is read, not believed', () => {
  const token = (claims: unknown) => `x.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.x`;
  expect(userOf(token({ sub: 'alice', exp: 5, name: 'Ünïcode' }))).toBe('alice');
  expect(userOf(token({ sub: 'alice' }))).toBe('alice');
  for (const bad of ['', 'a.b.c', token(null), token({ sub: 'a b', exp: 5 }), token({}), token({ sub: 1, exp: 5 })]) {
    expect(userOf(bad)).toBeNull();
  }
  const both = token({ sub: 'auth0|0123456789', 'https://e.com/id': 'alice', number: 17 });
  expect([userOf(both), userOf(both, 'https://e.com/id'), userOf(both, 'number')]).toEqual([null, 'alice', '17']);
});
