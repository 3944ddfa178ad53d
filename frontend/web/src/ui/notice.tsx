/** What went wrong without anybody having waited for it. In both panes, because a phone shows one of them at a time. */
import type { Model } from '../chat/model';
import { endSession } from '../session';
import { Close } from './icons';
import { Words } from './words';

export function Notice({ model }: { model: Model }) {
  const text = model.notice.value;
  const { state, error } = model.status.value;
  return (
    <div class="notices">
      <div class="notice" role="alert">
        {text !== null && (
          <>
            <Words text={text} />
            <button type="button" class="round small" aria-label="Dismiss" onClick={() => (model.notice.value = null)}>
              <Close />
            </button>
          </>
        )}
      </div>
      {state === 'failed' && error?.unauthorized && (
        <button type="button" class="main" onClick={endSession}>
          Sign in again
        </button>
      )}
    </div>
  );
}
