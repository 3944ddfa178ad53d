import { afterEach, expect, test, vi } from 'vitest';

// Nothing of the library is needed here.
vi.mock('chat-system-client', () => ({ ChatError: Error }));

afterEach(() => {
  vi.unstubAllGlobals();
  vi.resetModules();
});

test('where the browser keeps nothing one signs in all the same, and out', async () => {
  Object.defineProperty(globalThis, 'sessionStorage', {
    configurable: true,
    get() {
      throw new DOMException('site data is blocked', 'SecurityError');
    },
  });
  try {
    const { session, signInWithToken, endSession } = await import('./session');
    expect(session.value).toBeNull();
    const part = (value: object) => btoa(JSON.stringify(value));
    expect(signInWithToken(`${part({})}.${part({ sub: 'alice', exp: Date.now() / 1000 + 3600 })}.x`)).toBe(true);
    expect(session.value?.userId).toBe('alice');
    endSession();
    expect(session.value).toBeNull();
  } finally {
    Reflect.deleteProperty(globalThis, 'sessionStorage');
  }
});

test('the clock of this machine refuses no token', async () => {
  vi.stubGlobal('sessionStorage', undefined);
  const { session, signInWithToken } = await import('./session');
  const part = (value: object) => btoa(JSON.stringify(value));
  for (const exp of [0, Date.now() / 1000 - 3600, 1e300, undefined, 'soon']) {
    const token = `${part({})}.${part({ sub: 'alice', exp })}.x`;
    expect(signInWithToken(token)).toBe(true);
    expect(await session.value?.tokens()).toBe(token);
    expect(await session.value?.tokens()).toBe(token);
  }
});
