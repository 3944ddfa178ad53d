/** What the page says: failures by their code, times and days. */
import type { ChatError, Status } from 'chat-system-client';
import { size } from './chat/content';
import { facts } from './server';

const BY_CODE: Record<string, string> = {
  network: 'The server cannot be reached.',
  timeout: 'The server did not answer in time.',
  answer_invalid: 'Something between here and the server gave an answer that makes no sense.',
  token_missing: 'You are not signed in.',
  token_invalid: 'The server does not know this token.',
  token_expired: 'Your time is over: sign in again.',
  token_unavailable: 'No new token could be had.',
  token_user_mismatch: 'That token is another user’s.',
  user_unknown: 'The token does not say whose it is.',
  user_id_invalid: 'That is no user id: 1 to 32 letters, digits or . _ @ + : -',
  dev_host_refused: 'This server gives tokens only to pages on its own machine.',
  route_not_found: 'This server gives no tokens: paste one.',
  content_empty: 'There is nothing in it.',
  content_type_invalid: 'The kind of this file cannot be told.',
  body_too_large: 'It is too large.',
  rate_limited: 'You are sending too fast.',
  too_many_conversations: 'You have begun many conversations. Try again in a while.',
  overloaded: 'The server has too much to do.',
  too_many_connections: 'There are too many connections.',
  key_reused: 'It was sent before, with other words.',
  command_refused: 'The server could not store it.',
  seq_hole: 'Some messages are missing, and cannot be had.',
  discarded: 'It was discarded.',
  store: 'This browser does not keep things for this page.',
};

export function inWords(error: Pick<ChatError, 'code' | 'status'>): string {
  if (error.code === 'content_too_large') return tooLarge();
  const known = BY_CODE[error.code];
  if (known !== undefined) return known;
  if (error.status >= 500) return 'The server cannot do that at the moment.';
  return `That was refused (${error.code}).`;
}

export const tooLarge = (bytes?: number): string =>
  `${bytes === undefined ? 'It is too large' : `It has ${size(bytes)}`}: this server takes at most ${size(facts.contentLimit)}.`;

const TRANSPORTS: Record<string, string> = {
  websocket: 'live, over a websocket',
  polling: 'live, over polling',
  sse: 'live, over a stream of events',
  'long-poll': 'live, over long polls',
};

export function statusInWords(status: Status): string {
  switch (status.state) {
    case 'connected':
      return `Connected: ${TRANSPORTS[status.transport ?? ''] ?? 'live'}`;
    case 'connecting':
      return 'Connecting…';
    case 'waiting':
      return 'No connection. Trying again…';
    case 'failed':
      return status.error ? inWords(status.error) : 'The server has refused the connection.';
    case 'closed':
      return 'Disconnected';
  }
}

/** In the reader's language; in figures where the browser does not know it, or where it is no time at all. */
const format = (options: Intl.DateTimeFormatOptions, figures: (date: Date) => string) => {
  let made: Intl.DateTimeFormat | undefined;
  return (seconds: number): string => {
    const date = new Date(seconds * 1000);
    if (Number.isNaN(date.getTime())) return '';
    try {
      return (made ??= new Intl.DateTimeFormat(undefined, options)).format(date);
    } catch {
      return figures(date);
    }
  };
};
const two = (number: number) => String(number).padStart(2, '0');
const clockFigures = (date: Date) => `${two(date.getHours())}:${two(date.getMinutes())}`;
const dateFigures = (date: Date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
const clock = format({ hour: 'numeric', minute: '2-digit' }, clockFigures);
const weekday = format({ weekday: 'long' }, dateFigures);
const date = format({ day: 'numeric', month: 'long' }, dateFigures);
const dateWithYear = format({ day: 'numeric', month: 'long', year: 'numeric' }, dateFigures);
const shortDate = format({ day: '2-digit', month: '2-digit', year: '2-digit' }, dateFigures);
export const whole = format({ dateStyle: 'full', timeStyle: 'medium' }, (date) => `${dateFigures(date)} ${clockFigures(date)}`);

export const timeOfDay = (seconds: number): string => clock(seconds);

/** Days since some day, by the clock of this machine: equal for two times of one day. */
export function dayNumber(seconds: number): number {
  const day = new Date(seconds * 1000);
  return Math.round(Date.UTC(day.getFullYear(), day.getMonth(), day.getDate()) / 86_400_000);
}

export function dayInWords(seconds: number, now: number = Date.now() / 1000): string {
  const ago = dayNumber(now) - dayNumber(seconds);
  if (ago === 0) return 'Today';
  if (ago === 1) return 'Yesterday';
  if (ago > 1 && ago < 7) return weekday(seconds);
  return new Date(seconds * 1000).getFullYear() === new Date(now * 1000).getFullYear() ? date(seconds) : dateWithYear(seconds);
}

/** For the list of conversations: the time today, else the day. */
export function timeInShort(seconds: number, now: number = Date.now() / 1000): string {
  const ago = dayNumber(now) - dayNumber(seconds);
  if (ago <= 0) return clock(seconds);
  return ago < 7 ? dayInWords(seconds, now) : shortDate(seconds);
}
