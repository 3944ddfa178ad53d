/** Web Locks, as far as tabs need them, for Node 20, which has none: exclusive, in turn, with `ifAvailable` and `signal`. */
export class Locks {
  readonly #held = new Map<string, Promise<unknown>>();

  async request(name: string, ...rest: unknown[]): Promise<unknown> {
    const callback = rest.at(-1) as (lock: { name: string } | null) => unknown;
    const { ifAvailable = false, signal } = (rest.length > 1 ? rest[0] : {}) as LockOptions;
    if (ifAvailable && this.#held.has(name)) return callback(null);
    const aborted = new Promise<never>((_, reject) => {
      signal?.addEventListener('abort', () => reject(new DOMException('aborted', 'AbortError')));
    });
    aborted.catch(() => {});
    for (let held; (held = this.#held.get(name)); ) await Promise.race([held, aborted]);
    const running = Promise.resolve(callback({ name })).catch(() => {});
    this.#held.set(name, running);
    await running;
    this.#held.delete(name);
    return running;
  }
}
