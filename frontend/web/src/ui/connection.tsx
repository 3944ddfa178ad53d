import type { Status } from 'chat-system-client';
import { statusInWords } from '../words';

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
      {status.state === 'connected' ? <span class="unseen">{words}</span> : words}
    </span>
  );
}
