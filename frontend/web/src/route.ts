/** Which conversation is open, in the address after `#`: so a reload keeps it, and a phone's back button leaves it. */
import { signal } from '@preact/signals';
import { isUserId } from './session';

const read = (): string | null => {
  try {
    const peer = decodeURIComponent(location.hash.slice(1));
    return isUserId(peer) ? peer : null;
  } catch {
    return null;
  }
};

export const peer = signal<string | null>(read());

addEventListener('hashchange', () => {
  peer.value = read();
});

/** From one conversation to another without a step of the way back, so that back always leads to the list. */
export function go(to: string | null): void {
  const address = to === null ? location.pathname + location.search : `#${encodeURIComponent(to)}`;
  if (peer.value === null && to !== null) history.pushState(null, '', address);
  else history.replaceState(null, '', address);
  peer.value = to;
}
