/**
 * What somebody has begun to write, for each user and conversation, until it is sent or he signs out. It is written at
 * once and outlives a reload, the end of a token and the end of the tab.
 */
import { serverUrl } from './server';

const prefix = (me: string): string => `chat-system.draft ${serverUrl()} ${encodeURIComponent(me)} `;
const keyOf = (me: string, peer: string): string => prefix(me) + encodeURIComponent(peer);

export function keepDraft(me: string, peer: string, text: string): void {
  try {
    if (text === '') localStorage.removeItem(keyOf(me, peer));
    else localStorage.setItem(keyOf(me, peer), text);
  } catch {
    // The browser keeps nothing for this page, or no more: then it is there until the page is left.
  }
}

export function keptDraft(me: string, peer: string): string {
  try {
    return localStorage.getItem(keyOf(me, peer)) ?? '';
  } catch {
    return '';
  }
}

/** Whether there is one with more than spaces in it. */
export const hasDrafts = (me: string): boolean => keys(me).some((key) => localStorage.getItem(key)?.trim());

export function forgetDrafts(me: string): void {
  for (const key of keys(me)) localStorage.removeItem(key);
}

function keys(me: string): string[] {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(prefix(me)));
  } catch {
    return [];
  }
}
