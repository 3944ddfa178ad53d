/** A driver that is watched: what it gave, and whether that was each thing once and in order. */
import { AsyncLocalStorage } from 'node:async_hooks';

import { afterEach, aroundEach, expect } from 'vitest';

import { connect } from '../../src/index.js';
import type { Chat, ChatError, ConnectOptions, Loaded, Message, Outgoing, Receipt, Reset, Status, Store } from '../../src/index.js';
import { Scripted, tokenOf } from './scripted.js';

/** Short enough for tests that wait for a limit, long enough for a machine that does other things too. */
export const QUICK = { ready: 3000, answer: 3000, silence: 3000, poll: 3000, store: 3000, retry: 5, retryMax: 40, climb: 60_000, climbMax: 60_000, stable: 60_000 };

/** Of each test its own: some run beside each other. */
const ends = new AsyncLocalStorage<(() => Promise<unknown>)[]>();

aroundEach((runTest) => ends.run([], runTest));

afterEach(async () => {
  const failures: unknown[] = [];
  for (const end of ends.getStore()!.reverse()) await end().catch((failure) => failures.push(failure));
  if (failures.length > 0) throw failures[0];
});

export function atEnd(end: () => Promise<unknown>): void {
  ends.getStore()!.push(end);
}

export async function scripted(): Promise<Scripted> {
  const server = await Scripted.start();
  atEnd(() => server.stop());
  return server;
}

export class Observed {
  readonly messages: Message[] = [];
  readonly receipts: Receipt[] = [];
  readonly outgoing: [Outgoing, string][] = [];
  readonly statuses: Status[] = [];
  readonly loaded: Loaded[] = [];
  readonly resets: Reset[] = [];
  readonly errors: ChatError[] = [];

  constructor(readonly chat: Chat) {
    chat.on('message', (message) => void this.messages.push(message));
    chat.on('receipt', (receipt) => void this.receipts.push(receipt));
    chat.on('outgoing', (entry, discarded) => void this.outgoing.push([entry, discarded ? 'discarded' : entry.state]));
    chat.on('status', (status) => void this.statuses.push(status));
    chat.on('loaded', (loaded) => void this.loaded.push(loaded));
    chat.on('reset', (reset) => void this.resets.push(reset));
    chat.on('error', (error) => void this.errors.push(error));
  }

  get texts(): (string | undefined)[] {
    return this.messages.map(({ text }) => text);
  }

  get transports(): (string | undefined)[] {
    return this.statuses.filter(({ state }) => state === 'connected').map(({ transport }) => transport);
  }

  async connected(): Promise<void> {
    await until(() => this.chat.status.state === 'connected', 'it is connected');
  }

  /** These texts, each once, in this order, and nothing else. */
  async gave(texts: string[]): Promise<void> {
    await until(() => this.messages.length >= texts.length, () => `${texts.length} messages, of which came ${this.texts}`);
    expect(this.texts).toEqual(texts);
  }
}

export function observe(server: Pick<Scripted, 'url'>, options: Partial<ConnectOptions> = {}): Observed {
  const { timing, ...others } = options;
  const chat = connect({ url: server.url, token: tokenOf('alice'), ...others, timing: { ...QUICK, ...timing } });
  atEnd(() => chat.close());
  return new Observed(chat);
}

/** A store that a test can look into. */
export function shelf(): Store & { values: Map<string, string> } {
  const values = new Map<string, string>();
  return {
    values,
    get: async (key) => values.get(key),
    set: async (key, value) => void values.set(key, value),
    delete: async (key) => void values.delete(key),
    keys: async (prefix) => [...values.keys()].filter((key) => key.startsWith(prefix)),
  };
}

/** Less than a test has, so that it is told what did not come. */
const LIMIT = 50_000;

/** Waits for a condition, with a limit. */
export async function until(condition: () => boolean | Promise<boolean>, what: string | (() => string)): Promise<void> {
  const end = Date.now() + LIMIT;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${LIMIT} ms: ${typeof what === 'string' ? what : what()}`);
    await new Promise((turn) => setTimeout(turn, 3));
  }
}
