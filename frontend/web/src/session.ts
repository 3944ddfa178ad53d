/**
 * Who is signed in. The token is kept for as long as the tab is there, in `sessionStorage`: a reload keeps it, another
 * person on the same machine does not find it.
 */
import { signal } from '@preact/signals';
import { developmentToken } from './server';

interface Kept {
  userId: string;
  token: string;
  /** It came from the server itself, which gives another when this one is no good any more. */
  development: boolean;
}

export interface Session extends Kept {
  /** For the client library: the token that there is, and then new ones where there are any. */
  tokens(): Promise<string>;
}

const KEY = 'chat-system.session';
/** Seconds. A token that ends sooner is not begun with. */
const MARGIN = 60;

export const session = signal<Session | null>(restore());

export async function signInWithUserId(userId: string): Promise<void> {
  begin({ userId, token: await developmentToken(userId), development: true });
}

/** False if that is no token with a user's id in it, or if its time is over. */
export function signInWithToken(pasted: string): boolean {
  const token = pasted.trim().replace(/^bearer\s+/i, '');
  const claims = readToken(token);
  if (!claims || claims.ends <= Date.now() / 1000) return false;
  begin({ userId: claims.userId, token, development: false });
  return true;
}

export function signOut(): void {
  keep(null);
  session.value = null;
}

/** What a token says of itself. Whether it is true, only the server can tell. */
export function readToken(token: string): { userId: string; ends: number } | null {
  try {
    const payload = token.split('.')[1] ?? '';
    const bytes = Uint8Array.from(atob(payload.replace(/-/g, '+').replace(/_/g, '/')), (char) => char.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as { sub?: unknown; exp?: unknown };
    if (typeof claims.sub !== 'string' || typeof claims.exp !== 'number') return null;
    return isUserId(claims.sub) ? { userId: claims.sub, ends: claims.exp } : null;
  } catch {
    return null;
  }
}

export const isUserId = (text: string): boolean => /^[A-Za-z0-9._@+:-]{1,32}$/.test(text);

function begin(kept: Kept): void {
  keep(JSON.stringify(kept));
  session.value = live(kept);
}

function restore(): Session | null {
  try {
    const text = globalThis.sessionStorage?.getItem(KEY);
    if (typeof text !== 'string') return null;
    return live(JSON.parse(text) as Kept);
  } catch {
    // No JSON, or a browser that keeps nothing for this page and says so by throwing.
    return null;
  }
}

/** For a reload. Where the browser keeps nothing, it is signed in until then. */
function keep(text: string | null): void {
  try {
    if (text === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, text);
  } catch {
    // As said.
  }
}

function live(kept: Kept): Session {
  let { token } = kept;
  let given = false;
  return {
    ...kept,
    async tokens() {
      const ends = readToken(token)?.ends ?? 0;
      const good = !given && ends > Date.now() / 1000 + MARGIN;
      given = true;
      if (good || !kept.development) return token;
      token = await developmentToken(kept.userId);
      keep(JSON.stringify({ ...kept, token }));
      return token;
    },
  };
}
