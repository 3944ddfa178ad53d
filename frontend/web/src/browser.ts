/**
 * What browsers lack or refuse, made even before anything else runs. The build brings the syntax down to what
 * `vite.config.ts` names as its target, not the functions; `test/bundle.test.ts` holds the built page to what is here.
 *
 * Two kinds: small functions that are newer than the target, which are added, and features that are there and throw at
 * the first touch, as `navigator.locks` and `BroadcastChannel` do in a frame whose data is blocked. These are taken away,
 * because everything that uses them knows how to do without them.
 */

for (const { prototype } of [Array, String, Object.getPrototypeOf(Int8Array) as typeof Int8Array]) add(prototype, 'at', at);
add(Object, 'hasOwn', (object: object, key: PropertyKey) => Object.prototype.hasOwnProperty.call(object, key));

dropWhereItThrows(globalThis, 'BroadcastChannel', () => {
  if (typeof BroadcastChannel === 'undefined') return;
  const channel = new BroadcastChannel('chat-system');
  channel.postMessage(0);
  channel.close();
});
dropWhereItThrows(globalThis.navigator, 'locks', () => {
  void navigator.locks?.request('chat-system', { ifAvailable: true }, () => undefined).catch(() => undefined);
});

function at(this: ArrayLike<unknown>, index: number): unknown {
  const whole = Math.trunc(index) || 0;
  return this[whole < 0 ? this.length + whole : whole];
}

function add(target: object, name: string, value: unknown): void {
  if (name in target) return;
  Object.defineProperty(target, name, { value, configurable: true, writable: true });
}

function dropWhereItThrows(target: object | undefined, name: string, probe: () => void): void {
  try {
    probe();
  } catch {
    try {
      if (target) Object.defineProperty(target, name, { value: undefined, configurable: true });
    } catch {
      // It stays as it is.
    }
  }
}
