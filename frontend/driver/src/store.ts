/** Where the cursor and the queue are kept: strings under keys, in what the platform has. */
import { within } from './time.js';
import type { Store } from './types.js';

export class MemoryStore implements Store {
  readonly #values = new Map<string, string>();

  async get(key: string): Promise<string | undefined> {
    return this.#values.get(key);
  }

  async set(key: string, value: string): Promise<void> {
    this.#values.set(key, value);
  }

  async delete(key: string): Promise<void> {
    this.#values.delete(key);
  }

  async keys(prefix: string): Promise<string[]> {
    return [...this.#values.keys()].filter((key) => key.startsWith(prefix));
  }
}

class LocalStore implements Store {
  constructor(private readonly storage: Storage) {}

  async get(key: string): Promise<string | undefined> {
    return this.storage.getItem(key) ?? undefined;
  }

  async set(key: string, value: string): Promise<void> {
    this.storage.setItem(key, value);
  }

  async delete(key: string): Promise<void> {
    this.storage.removeItem(key);
  }

  async keys(prefix: string): Promise<string[]> {
    const all = Array.from({ length: this.storage.length }, (_, index) => this.storage.key(index));
    return all.filter((key): key is string => key?.startsWith(prefix) ?? false);
  }
}

const DATABASE = 'chat-system';
const TABLE = 'values';

/** Calls that a store may have to answer; more would only fill the memory. */
const ROOM = 1000;

/** Milliseconds: browsers have been seen that never answer when a database is opened. */
const OPEN_LIMIT = 3000;

/**
 * The connection to the database is opened again where it is gone: the browser closes it when somebody clears the site's
 * data, and a page that knows a later version of it asks this one to let go.
 */
class IndexedStore implements Store {
  #opened: Promise<IDBDatabase> | undefined;

  static async open(): Promise<IndexedStore> {
    const store = new IndexedStore();
    await store.#database();
    return store;
  }

  get(key: string): Promise<string | undefined> {
    return this.#ask('readonly', (table) => table.get(key));
  }

  async set(key: string, value: string): Promise<void> {
    await this.#ask('readwrite', (table) => table.put(value, key));
  }

  async delete(key: string): Promise<void> {
    await this.#ask('readwrite', (table) => table.delete(key));
  }

  keys(prefix: string): Promise<string[]> {
    const range = IDBKeyRange.bound(prefix, `${prefix}\uffff`);
    return this.#ask('readonly', (table) => table.getAllKeys(range)) as Promise<string[]>;
  }

  #database(): Promise<IDBDatabase> {
    const opened = (this.#opened ??= openDatabase(() => this.#gone(opened)));
    opened.catch(() => this.#gone(opened));
    return opened;
  }

  #gone(opened: Promise<IDBDatabase>): void {
    if (this.#opened === opened) this.#opened = undefined;
  }

  async #ask<T>(mode: IDBTransactionMode, ask: (table: IDBObjectStore) => IDBRequest<T>, again = true): Promise<T> {
    const opened = this.#database();
    const database = await opened;
    try {
      const transaction = database.transaction(TABLE, mode);
      return await committed(transaction, ask(transaction.objectStore(TABLE)));
    } catch (error) {
      // The browser closes it, and says so later or not at all: once more, with another connection.
      if (!again || !isClosed(error)) throw error;
      this.#gone(opened);
      return this.#ask(mode, ask, false);
    }
  }
}

/**
 * Done when the transaction is, not when the request is: what was answered stays. The commit goes out with the request,
 * so that a page which is left now has written all the same.
 */
function committed<T>(transaction: IDBTransaction, request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    transaction.commit?.();
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error ?? new DOMException('the database was closed', 'AbortError'));
  });
}

/** Of a connection that is closed `transaction` throws, and those that are under way are aborted. */
function isClosed(error: unknown): boolean {
  return error instanceof DOMException && ['InvalidStateError', 'AbortError'].includes(error.name);
}

/**
 * Whatever store it is, it answers within a time, or that is an error. While an answer is overdue, what is written goes
 * on its way without being waited for, and nothing is read.
 */
export class Prompt implements Store {
  /** Calls that have not been answered. */
  #asked = 0;
  /** One of them is overdue, and nothing was answered since. */
  #overdue = false;

  /** `wrote` is called whenever something is written. */
  constructor(
    private readonly store: Store,
    private readonly limit: number,
    private readonly wrote: () => void,
  ) {}

  get(key: string): Promise<string | undefined> {
    return this.#ask(() => this.store.get(key));
  }

  set(key: string, value: string): Promise<void> {
    return this.#ask(async () => {
      await this.store.set(key, value);
      this.wrote();
    });
  }

  delete(key: string): Promise<void> {
    return this.#ask(() => this.store.delete(key));
  }

  keys(prefix: string): Promise<string[]> {
    return this.#ask(() => this.store.keys(prefix));
  }

  async #ask<T>(call: () => Promise<T>): Promise<T> {
    const late = () => {
      this.#overdue = true;
      return new Error(`the store does not answer within ${this.limit} ms`);
    };
    if (this.#asked >= ROOM) throw late();
    this.#asked++;
    const answer = (async () => call())().finally(() => {
      this.#asked--;
      this.#overdue = false;
    });
    answer.catch(() => {});
    return this.#overdue ? within(0, answer, late) : within(this.limit, answer, late);
  }
}

/**
 * The store that was asked for, or one in memory where the platform has none or refuses it, as private windows do;
 * `refused` is called with the reason.
 */
export async function openStore(wanted: 'memory' | 'local' | 'indexeddb' | Store, refused?: (cause: unknown) => void): Promise<Store> {
  if (typeof wanted === 'object') return wanted;
  try {
    if (wanted === 'local' && typeof localStorage !== 'undefined') {
      localStorage.setItem(DATABASE, '');
      localStorage.removeItem(DATABASE);
      return new LocalStore(localStorage);
    }
    if (wanted === 'indexeddb' && typeof indexedDB !== 'undefined') return await IndexedStore.open();
  } catch (cause) {
    refused?.(cause);
  }
  return new MemoryStore();
}

/** `gone` is called when it cannot be used any more. */
function openDatabase(gone: () => void): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    let late = false;
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
    request.onsuccess = () => {
      const database = request.result;
      database.onclose = gone;
      database.onversionchange = () => {
        gone();
        database.close();
      };
      // Nobody waits for it any more; open it would only be in the way of others.
      if (late) database.close();
      else resolve(database);
    };
    const fail = (error: unknown) => {
      late = true;
      reject(error);
    };
    request.onerror = () => fail(request.error);
    request.onblocked = () => fail(new Error('the database is held by another version'));
    setTimeout(() => fail(new Error('the database does not open')), OPEN_LIMIT);
  });
}
