/** The real server, on a free port, with SQLite in a folder of its own; killed and started as a test likes. */
import { spawn, type ChildProcess } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';

import { atEnd, until } from './observed.js';
import { freePort } from './port.js';

/** `SERVER_BINARY` names another binary than the one that `cargo build` makes. */
const BINARY = process.env['SERVER_BINARY'] ?? fileURLToPath(new URL('../../../../target/debug/chat-system', import.meta.url));
const SECRET = 'a secret of the tests, thirty-two bytes';

/** A token that outlives the server, good for so many seconds. */
export function tokenFor(user: string, seconds = 3600): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, exp: Math.floor(Date.now() / 1000) + seconds })}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

export class Real {
  readonly #folder = mkdtempSync(`${tmpdir()}/chat-driver-`);
  #process: ChildProcess | undefined;
  #said = '';
  port = 0;

  static async start(options: { development?: boolean; loses?: number } = {}): Promise<Real> {
    const server = new Real(options);
    atEnd(() => server.stop());
    do server.port = await freePort();
    while (!(await server.#begins()));
    return server;
  }

  private constructor(private readonly options: { development?: boolean; loses?: number }) {}

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async begin(): Promise<void> {
    if (!(await this.#begins())) throw new Error(`its port is taken: ${this.#said}`);
  }

  /** Starts it, and waits until it is ready. False if somebody else has its port. */
  async #begins(): Promise<boolean> {
    const { development, loses } = this.options;
    const secret = development ? {} : { CHAT_JWT_SECRET: SECRET };
    const lossy = loses === undefined ? {} : { CHAT_LOSE_ONE_IN: `${loses}` };
    const others = Object.entries(process.env).filter(([name]) => !name.startsWith('CHAT_'));
    const env = { ...Object.fromEntries(others), ...secret, ...lossy, CHAT_LISTEN: `127.0.0.1:${this.port}`, CHAT_HEARTBEAT_S: '1' };
    const child = spawn(BINARY, ['serve'], { cwd: this.#folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#process = child;
    const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
    let taken = false;
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (this.#said = (this.#said + data).slice(-4000)));
    await until(
      async () => {
        if (child.exitCode !== null) {
          // With its last words.
          await closed;
          taken = this.#said.includes('already in use');
          if (!taken) throw new Error(`the server ended: ${this.#said}`);
          return true;
        }
        return fetch(`${this.url}/readyz`).then(
          ({ ok }) => ok,
          () => false,
        );
      },
      () => `the server is ready: ${this.#said}`,
    );
    return !taken;
  }

  /** SIGKILL: no last word. */
  async kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
