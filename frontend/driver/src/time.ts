/** Pauses that can be cut short, how long they are, and what others may say about that. */
import type { ChatError } from './errors.js';
import type { Timing } from './types.js';

/** The longest pause that somebody else can ask for, in seconds. */
const LONGEST = 60;

/** A timer beyond this fires at once. */
const TIMER_MAX = 2 ** 31 - 1;

/**
 * Seconds that somebody else tells: the server, a proxy, or what stands in for either. Within these limits; undefined
 * where it is no length of time.
 */
export function told(seconds: unknown, least: number, most: number): number | undefined {
  return typeof seconds === 'number' && seconds >= 0 ? Math.min(most, Math.max(least, seconds)) : undefined;
}

/** Waits, until the time is up or somebody has a reason to try again. */
export class Pause {
  /** And whether it is firm: what the server asked for is not cut short by a connection. */
  #waiting = new Map<() => void, boolean>();

  wait(milliseconds?: number, firm = false): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = milliseconds === undefined ? undefined : setTimeout(wake, Math.min(milliseconds, TIMER_MAX));
      this.#waiting.set(wake, firm);
    });
  }

  /** After a failure: as long as the server asked for, or longer each time. */
  after(error: ChatError, failures: number, timing: Timing): Promise<void> {
    return this.wait(pauseAfter(error, failures, timing), error.retryAfter !== undefined);
  }

  /** There is a connection again. */
  cut(): void {
    for (const [wake, firm] of [...this.#waiting]) if (!firm) wake();
  }

  /** The network is back, somebody looks, there is another token, or it is over: whatever anybody asked for. */
  end(): void {
    for (const wake of [...this.#waiting.keys()]) wake();
  }
}

/**
 * What the server asks for, up to a limit, and a little more by chance; never less than a backoff, so that whatever is
 * asked for, repeated failures come at growing distances.
 */
export function pauseAfter({ retryAfter }: ChatError, failures: number, { retry, retryMax }: Timing): number {
  const asked = told(retryAfter, 0, LONGEST) ?? 0;
  return Math.max(backoff(failures, retry, retryMax), asked * 1000 * (1 + Math.random() / 5));
}

/** What does not come within a time is an error, and what comes later is nobody's. */
export async function within<T>(milliseconds: number, answer: Promise<T>, late: () => Error): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(late()), milliseconds)));
  try {
    return await Promise.race([answer, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/** Doubles, up to a limit; half of it is chance, so that those who failed together do not come back together. */
export function backoff(failures: number, first: number, most: number): number {
  const full = Math.min(most, first * 2 ** Math.min(failures, 20));
  return full / 2 + (Math.random() * full) / 2;
}
