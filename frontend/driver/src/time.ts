/** Pauses that can be cut short, and how long they are. */
import type { ChatError } from './errors.js';
import type { Timing } from './types.js';

/** Waits, until the time is up or somebody has a reason to try again. */
export class Pause {
  /** And whether it is firm: what the server asked for is not cut short. */
  #waiting = new Map<() => void, boolean>();

  wait(milliseconds?: number, firm = false): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = milliseconds === undefined ? undefined : setTimeout(wake, milliseconds);
      this.#waiting.set(wake, firm);
    });
  }

  /** After a failure: as long as the server asked for, or longer each time. */
  after(error: ChatError, failures: number, timing: Timing): Promise<void> {
    return this.wait(pauseAfter(error, failures, timing), error.retryAfter !== undefined);
  }

  /** There is a reason to try again. */
  cut(): void {
    for (const [wake, firm] of [...this.#waiting]) if (!firm) wake();
  }

  /** It is over, whatever anybody asked for. */
  end(): void {
    for (const wake of [...this.#waiting.keys()]) wake();
  }
}

/** What the server asks for, and a little more by chance, never less; else a backoff. */
export function pauseAfter({ retryAfter }: ChatError, failures: number, { retry, retryMax }: Timing): number {
  return retryAfter === undefined ? backoff(failures, retry, retryMax) : retryAfter * 1000 * (1 + Math.random() / 5);
}

/** Doubles, up to a limit; half of it is chance, so that those who failed together do not come back together. */
export function backoff(failures: number, first: number, most: number): number {
  const full = Math.min(most, first * 2 ** Math.min(failures, 20));
  return full / 2 + (Math.random() * full) / 2;
}
