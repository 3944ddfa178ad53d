/** Before all tests, once: what is shipped, for the tests that run it. Where it is newer than its sources it stays: others may be importing it. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';

const root = new URL('../..', import.meta.url);
/** Made last. */
const BUNDLE = 'dist/chat-system-client.js';
const SETTINGS = ['package-lock.json', 'tsconfig.json', 'tsconfig.build.json', 'build.mjs'];

const changed = (path: string) => statSync(new URL(path, root)).mtimeMs;

export default function build(): void {
  const sources = ['src', ...readdirSync(new URL('src', root), { recursive: true, encoding: 'utf8' }).map((name) => `src/${name}`), ...SETTINGS];
  if (existsSync(new URL(BUNDLE, root)) && sources.every((path) => changed(path) <= changed(BUNDLE))) return;
  execFileSync('npm', ['run', '--silent', 'build'], { cwd: root, stdio: 'inherit' });
}
