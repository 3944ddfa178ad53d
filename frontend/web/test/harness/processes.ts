/** Programs that a test starts, in folders of their own, which end with it. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const temporaryFolder = (what: string): string => mkdtempSync(join(tmpdir(), `chat-${what}-`));

/** Waits until `attempt` gives something true, or fails with what it was waiting for. */
export async function eventually<T>(what: string, attempt: () => Promise<T> | T, limit = 60_000): Promise<NonNullable<T>> {
  const end = Date.now() + limit;
  for (;;) {
    const got = await attempt();
    if (got) return got;
    if (Date.now() > end) throw new Error(`within ${limit / 1000} s it was never so: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

export class Program {
  readonly folder: string;
  private readonly child: ChildProcess;
  private readonly log: string;

  constructor(file: string, args: readonly string[], env: Record<string, string>, folder: string) {
    this.folder = folder;
    this.log = join(folder, 'log');
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('CHAT_'));
    const output = openSync(this.log, 'a');
    this.child = spawn(file, args, {
      cwd: folder,
      env: { ...Object.fromEntries(inherited), TMPDIR: folder, ...env },
      stdio: ['ignore', output, output],
    });
    closeSync(output);
    running.add(this);
    this.child.once('exit', () => running.delete(this));
  }

  get ended(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  output(): string {
    return readFileSync(this.log, 'utf8');
  }

  /** Whether it ended because somebody else has its port; what ended for another reason is an error. */
  lostItsPort(): boolean {
    if (!this.ended) return false;
    if (!this.output().includes('already in use')) throw new Error(`it ended:\n${this.output()}`);
    return true;
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.ended) return;
    const exit = once(this.child, 'exit');
    this.child.kill(signal);
    await exit;
  }

  /** With its folder. */
  async remove(): Promise<void> {
    await this.end('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }

  kill(): void {
    this.child.kill('SIGKILL');
  }
}

const running = new Set<Program>();
process.on('exit', () => {
  for (const program of running) program.kill();
});
