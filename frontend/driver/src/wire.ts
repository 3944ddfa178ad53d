/** What the server says, as it comes, and what becomes of it: bytes are `Uint8Array`, whatever carried them. */
import { ChatError, withRetryAfter, type Problem } from './errors.js';
import { told } from './time.js';
import type { ChatEvent, Conversation, Message } from './types.js';

export interface Ready {
  cursor: string;
  user_id?: string;
  heartbeat_s?: number;
  /** What it knows beyond the first version. */
  features?: unknown;
}

export interface Lost {
  cursor: string;
  reason: string;
  oldest: number;
}

/** An event, or a heartbeat: a step of the chain. */
export interface Delivery {
  cursor: string;
  prev: string;
  position?: number;
  type?: string;
}

export type WireEvent = ChatEvent & Delivery & { message?: Message; up_to?: { _id: number; seq: number } };

export interface EventPage {
  events: WireEvent[];
  cursor: string;
  more: boolean;
}

export interface WireHistory {
  messages: Message[];
  next: string | null;
  cursor: string;
}

export interface WireConversations {
  conversations: Conversation[];
  next: string | null;
  cursor: string;
}

/** Bytes are base64 in JSON, a `Buffer` or an `ArrayBuffer` beside it. Changes the message that it is given. */
export function readMessage(message: Message): Message {
  const data: unknown = message.data;
  if (typeof data === 'string') message.data = fromBase64(data);
  else if (data instanceof ArrayBuffer) message.data = new Uint8Array(data);
  else if (ArrayBuffer.isView(data)) message.data = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return message;
}

export function toBase64(bytes: Uint8Array): string {
  let binary = '';
  // In pieces: a call has no room for an argument for each byte.
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** A refusal, if this is one of the server's. */
export function problemIn(body: unknown): Problem | undefined {
  const problem = body as Partial<Problem> | null | undefined;
  return typeof problem?.code === 'string' && typeof problem.status === 'number' ? (problem as Problem) : undefined;
}

/** A body as JSON, or as it is where it is none. */
export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** What an answer that is no success says: its JSON, or its text where it has none. */
export function refusal(status: number, body: unknown, headers?: Pick<Headers, 'get'>): ChatError {
  const problem = problemIn(body);
  if (problem) return ChatError.of(problem);
  // Some have a status of their own for it, nginx has words.
  if (status === 431 || (status === 400 && typeof body === 'string' && /(header|cookie)[^<]*too large/i.test(body))) {
    const message = `what stands before the server takes no token of this size: status ${status}`;
    return new ChatError('head_too_large', message, { status });
  }
  const retryAfter = headers && retryAfterIn(headers);
  return new ChatError('answer_invalid', `an answer with status ${status} that is not the server's`, { status, ...withRetryAfter(retryAfter) });
}

/** Seconds, or a date: that by the clock of whoever wrote it, where it says what that is. */
function retryAfterIn(headers: Pick<Headers, 'get'>): number | undefined {
  const text = headers.get('Retry-After')?.trim() ?? '';
  if (/^\d+(\.\d+)?$/.test(text)) return told(Number(text), 0, Infinity);
  const date = (header: string) => (/ GMT$/.test(header) ? Date.parse(header) : NaN);
  const now = date(headers.get('Date')?.trim() ?? '');
  return told((date(text) - (Number.isNaN(now) ? Date.now() : now)) / 1000, 0, Infinity);
}

/** The last thing of a stream. */
export function closing(frame: { code?: unknown; retry_after?: unknown }): ChatError {
  const code = typeof frame.code === 'string' ? frame.code : 'closing';
  const retry_after = told(frame.retry_after, 0, Infinity) ?? 1;
  const status = code === 'token_expired' ? 401 : 503;
  return ChatError.of({ code, status, title: `the server ends the stream: ${code}`, retry_after });
}

/** The user that a JWT is for, by one of its claims. Not checked: that is the server's business. */
export function userOf(token: string, claim = 'sub'): string | undefined {
  try {
    const payload = token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/');
    const user: unknown = JSON.parse(new TextDecoder().decode(fromBase64(payload)))[claim];
    // As the server takes it: a number too, in a claim of the issuer's own.
    if (claim !== 'sub' && Number.isSafeInteger(user)) return String(user);
    return typeof user === 'string' ? user : undefined;
  } catch {
    return undefined;
  }
}
