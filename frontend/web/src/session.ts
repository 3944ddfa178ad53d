/**
 * Who is signed in. The token is kept for as long as the tab is there, in `sessionStorage`: a reload keeps it, another
 * person on the same machine does not find it.
 */
import { signal } from '@preact/signals';
import { developmentToken, facts } from './server';

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

export const session = signal<Session | null>(restore());

export async function signInWithUserId(userId: string): Promise<void> {
  begin({ userId, token: await developmentToken(userId), development: true });
}

/** False if that is no token with a user's id in it. Whether it is good, and for how long, only the server can tell. */
export function signInWithToken(pasted: string): boolean {
  const token = pasted.trim().replace(/^bearer\s+/i, '');
  const userId = userOf(token);
  if (userId === null) return false;
  begin({ userId, token, development: false });
  return true;
}

/** Ends the session. What the user has written and not sent stays for the next one; `Model.forget` takes it away. */
export function endSession(): void {
  keep(null);
  session.value = null;
}

/** Whose a token says it is. */
export function userOf(token: string, claim = facts.userClaim): string | null {
  try {
    const payload = token.split('.')[1] ?? '';
    const bytes = Uint8Array.from(atob(payload.replace(/-/g, '+').replace(/_/g, '/')), (char) => char.charCodeAt(0));
    const told = (JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>)[claim];
    const user = claim !== 'sub' && Number.isSafeInteger(told) ? String(told) : told;
    return typeof user === 'string' && isUserId(user) ? user : null;
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
      // The one that there is, whatever this machine's clock says: it is asked for another when the server refuses it.
      if (!given || !kept.development) {
        given = true;
        return token;
      }
      token = await developmentToken(kept.userId);
      keep(JSON.stringify({ ...kept, token }));
      return token;
    },
  };
}
