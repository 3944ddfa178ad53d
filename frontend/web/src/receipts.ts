/** What others are told of what this user receives and reads, as he has chosen it in this browser. */
import type { ReceiptSettings } from 'chat-system-client';
import { serverUrl } from './server';

const keyOf = (me: string): string => `chat-system.receipts ${serverUrl()} ${encodeURIComponent(me)}`;

export function keptReceipts(me: string): ReceiptSettings {
  try {
    const kept = JSON.parse(localStorage.getItem(keyOf(me)) ?? '{}') as Partial<ReceiptSettings>;
    return { received: kept.received !== false, read: kept.read !== false };
  } catch {
    return { received: true, read: true };
  }
}

export function keepReceipts(me: string, receipts: ReceiptSettings): void {
  try {
    localStorage.setItem(keyOf(me), JSON.stringify(receipts));
  } catch {
    // The browser keeps nothing for this page: it is so until the page is left.
  }
}
