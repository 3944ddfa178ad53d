/** Before all tests, once: what is shipped, for the tests that run it. */
import { execFileSync } from 'node:child_process';

export default function build(): void {
  const root = new URL('../..', import.meta.url);
  execFileSync('npm', ['run', '--silent', 'build'], { cwd: root, stdio: 'inherit' });
}
