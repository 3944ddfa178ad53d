/** What the server says of itself in the page, and the one request that the client library does not make. */
import { ChatError, type Problem } from 'chat-system-client';

export interface Facts {
  /** Whether it gives anybody on its machine a token for any user. */
  development: boolean;
  /** The most bytes that a message may have. */
  contentLimit: number;
  /** The claim of a token that has the user's id. */
  userClaim: string;
}

const DEFAULT_CONTENT_LIMIT = 256 << 10;

/** Reads `sign-in=development; content-limit=262144; user-claim=sub`. Without it (Vite's own server) all are guessed. */
export function readFacts(told: string): Facts {
  const facts = new Map(told.split(';').map((fact) => fact.trim().split('=') as [string, string]));
  const limit = Number(facts.get('content-limit'));
  return {
    development: (facts.get('sign-in') ?? 'development') === 'development',
    contentLimit: limit > 0 ? limit : DEFAULT_CONTENT_LIMIT,
    userClaim: decodeURIComponent(facts.get('user-claim') ?? 'sub'),
  };
}

export const facts: Facts = readFacts(
  globalThis.document?.querySelector<HTMLMetaElement>('meta[name="chat-server"]')?.content ?? '',
);

/** Where the server is: where this page came from, behind whatever prefix a proxy adds. */
export const serverUrl = (): string => new URL('.', document.baseURI).href;

export async function developmentToken(userId: string): Promise<string> {
  let answer: Response;
  try {
    answer = await fetch(new URL('dev/token', serverUrl()), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ user_id: userId }),
    });
  } catch (cause) {
    throw new ChatError('network', 'the server does not answer', { cause });
  }
  const body: unknown = await answer.json().catch(() => null);
  if (answer.ok && hasToken(body)) return body.token;
  if (isProblem(body)) throw ChatError.of(body);
  throw new ChatError('answer_invalid', `the answer has status ${answer.status}`, { status: answer.status });
}

const hasToken = (body: unknown): body is { token: string } =>
  typeof body === 'object' && body !== null && 'token' in body && typeof body.token === 'string';

const isProblem = (body: unknown): body is Problem =>
  typeof body === 'object' && body !== null && 'code' in body && typeof body.code === 'string';
