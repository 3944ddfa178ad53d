/** Where the cursor and the queue are kept: strings under keys, in what the platform has. */
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

class IndexedStore implements Store {
  constructor(private readonly database: IDBDatabase) {}

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

  /**
   * Done when the transaction is, not when the request is: what was answered stays. The commit goes out with the request,
   * so that a page which is left now has written all the same.
   */
  #ask<T>(mode: IDBTransactionMode, ask: (table: IDBObjectStore) => IDBRequest<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(TABLE, mode);
      const request = ask(transaction.objectStore(TABLE));
      transaction.commit?.();
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  }
}

const DATABASE = 'chat-system';

/** Browsers have been seen that never answer when a database is opened. */
const OPEN_LIMIT = 3000;
const TABLE = 'values';

/** The store that was asked for, or one in memory where the platform has none or refuses it (private windows do). */
export async function openStore(wanted: 'memory' | 'local' | 'indexeddb' | Store): Promise<Store> {
  if (typeof wanted === 'object') return wanted;
  try {
    if (wanted === 'local' && typeof localStorage !== 'undefined') {
      localStorage.setItem(DATABASE, '');
      localStorage.removeItem(DATABASE);
      return new LocalStore(localStorage);
    }
    if (wanted === 'indexeddb' && typeof indexedDB !== 'undefined') return new IndexedStore(await openDatabase());
  } catch {
    // As if it were not there.
  }
  return new MemoryStore();
}

function openDatabase(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error('the database is held by another version'));
    setTimeout(() => reject(new Error('the database does not open')), OPEN_LIMIT);
  });
}
