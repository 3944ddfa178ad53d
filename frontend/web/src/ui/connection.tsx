import type { Status } from 'chat-system-client';
import { statusInWords } from '../words';
import { Words } from './words';

/** A dot when all is well, words when it is not. */
export function Connection({ status }: { status: Status }) {
  const words = statusInWords(status);
  return (
    <span
      class={`connection ${status.state}`}
      role="status"
      title={words}
      data-state={status.state}
      data-transport={status.transport ?? ''}
    >
      <span class="dot" aria-hidden="true" />
      <Words text={words} {...(status.state === 'connected' ? { class: 'unseen' } : {})} />
    </span>
  );
}

/** The same for the pane that is in view on a phone: nothing when all is well. */
export function Trouble({ status }: { status: Status }) {
  const words = status.state === 'connected' ? '' : statusInWords(status);
  return (
    <p class={status.state === 'failed' ? 'trouble bad' : 'trouble'} role="status">
      {words !== '' && <Words text={words} />}
    </p>
  );
}
