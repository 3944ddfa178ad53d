/**
 * The place in the log that the application has reached, as the store keeps it.
 *
 * Each tab writes a key of its own, and whoever begins takes the furthest. So no two write the same key, no step has
 * to be read before it is written, and a tab that lags behind cannot put back what another has done. A cursor is opaque:
 * it is the position beside it, that of the last event dealt with, which says what is further, and which events of a
 * stream from an older cursor are known already.
 */
import type { Store } from './types.js';

export interface Place {
  cursor: string;
  position: number;
}

export class PlaceKeeper {
  readonly #prefix: string;
  readonly #key: string;
  #wanted: Place | undefined;
  #writing: Promise<void> | undefined;

  constructor(
    private readonly store: Store,
    scope: string,
    tab: string,
    private readonly failed: (cause: unknown) => void,
  ) {
    this.#prefix = `${scope}/cursor/`;
    this.#key = this.#prefix + tab;
  }

  /** The furthest place that any tab has reached; the others are forgotten. */
  async load(): Promise<Place | undefined> {
    let best: Place | undefined;
    let keys: string[];
    for (let vanished = true; vanished; ) {
      vanished = false;
      keys = await this.store.keys(this.#prefix);
      for (const key of keys) {
        const value = await this.store.get(key);
        // Another tab that begins has taken it over, and written its own before it deleted this one.
        if (value === undefined) vanished = true;
        const place = parse(value);
        if (place && (!best || place.position >= best.position)) best = place;
      }
    }
    if (best) await this.store.set(this.#key, JSON.stringify(best));
    // A tab that is still there writes its own again with its next step.
    for (const key of keys!) if (key !== this.#key) await this.store.delete(key);
    return best;
  }

  /** Written soon: one write at a time, of the newest. */
  keep(place: Place): void {
    this.#wanted = place;
    this.#writing ??= this.#write();
  }

  /** After a `reset` no place of before means anything. */
  async forget(): Promise<void> {
    this.#wanted = undefined;
    await this.#writing;
    for (const key of await this.store.keys(this.#prefix)) await this.store.delete(key);
  }

  async flush(): Promise<void> {
    await this.#writing;
  }

  async #write(): Promise<void> {
    while (this.#wanted) {
      const place = this.#wanted;
      this.#wanted = undefined;
      try {
        await this.store.set(this.#key, JSON.stringify(place));
      } catch (cause) {
        this.failed(cause);
      }
    }
    this.#writing = undefined;
  }
}

function parse(value: string | undefined): Place | undefined {
  try {
    const place = JSON.parse(value ?? '') as Place;
    return typeof place.cursor === 'string' && typeof place.position === 'number' ? place : undefined;
  } catch {
    return undefined;
  }
}
