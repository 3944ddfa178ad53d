import type { OutgoingState } from 'chat-system-client';

const WORDS: Record<OutgoingState, string> = {
  pending: 'Not sent yet',
  sent: 'Sent',
  delivered: 'Delivered',
  read: 'Read',
  failed: 'Not sent',
};

/** How far a message of one's own has come. One element, drawn by the style: there are many. */
export function Mark({ state }: { state: OutgoingState }) {
  const words = WORDS[state];
  return <span class={`mark ${state}`} role="img" aria-label={words} title={words} data-mark={state} />;
}
