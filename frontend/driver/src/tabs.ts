/**
 * The tabs of one user in one browser.
 *
 * Each tab has a connection of its own, and is told everything by the server. One leader for all was refused: what a
 * follower sees would hang on another tab, which the browser slows down or freezes when it is hidden, and on a
 * channel with no chain; and the marks, the messages and their order come to every tab over its own chain anyway. What tabs
 * share is the store: the furthest place in the log, and the queue. A message in the queue belongs to the tab that wrote it, which alone
 * sends it, so that the order is that of its writing; when the tab is gone, another takes its messages over.
 *
 * That a tab is there is a Web Lock that it holds; whoever waits for that lock learns of its end at once, whatever ended
 * it. Who is there is said over a BroadcastChannel. Without the one or the other, what a tab has left is found when
 * the next one begins; should it still be there, then both send, with the same keys, and nothing doubles.
 */

/** Random enough, and in web workers and insecure contexts too, where `crypto.randomUUID` is not. */
export function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export class Tabs {
  readonly id = randomKey();
  readonly #channel: BroadcastChannel | undefined;
  readonly #end = new AbortController();
  readonly #known = new Set<string>();

  /** `left` is called for each tab that is gone. Only a store that is `shared` has tabs. */
  constructor(
    private readonly scope: string,
    private readonly left: (tab: string) => Promise<void>,
    shared: boolean,
  ) {
    const locks = shared ? lockManager() : undefined;
    if (!locks) return;
    const held = () => {
      this.#greet();
      return new Promise<void>((release) => this.#end.signal.addEventListener('abort', () => release()));
    };
    if (typeof BroadcastChannel !== 'undefined') this.#channel = new BroadcastChannel(scope);
    this.#channel?.addEventListener('message', ({ data }) => {
      if (typeof data?.tab === 'string' && this.#watch(data.tab)) this.#greet();
    });
    locks.request(this.#lock(this.id), { signal: this.#end.signal }, held).catch(() => {});
  }

  /** Calls `left` before it returns, if that tab is gone or nobody can tell; otherwise once it is. */
  async settle(tab: string): Promise<void> {
    const locks = lockManager();
    if (tab === this.id || this.#known.has(tab)) return;
    if (!locks) return void (await this.left(tab));
    const gone = await locks.request(this.#lock(tab), { ifAvailable: true }, async (lock) => {
      if (lock) await this.left(tab);
      return lock !== null;
    });
    if (!gone) this.#watch(tab);
  }

  /** Calls `left` once that tab is gone; it holds the lock meanwhile, so that no two take over. False if it is watched already. */
  #watch(tab: string): boolean {
    if (tab === this.id || this.#known.has(tab)) return false;
    this.#known.add(tab);
    lockManager()!
      .request(this.#lock(tab), { signal: this.#end.signal }, () => this.left(tab))
      .catch(() => {})
      .finally(() => this.#known.delete(tab));
    return true;
  }

  close(): void {
    this.#end.abort();
    this.#channel?.close();
  }

  #lock(tab: string): string {
    return `${this.scope}/tab/${tab}`;
  }

  /** Only a tab that holds its lock says that it is there. */
  #greet(): void {
    if (!this.#end.signal.aborted) this.#channel?.postMessage({ tab: this.id });
  }
}

function lockManager(): LockManager | undefined {
  return typeof navigator === 'undefined' ? undefined : navigator.locks;
}
