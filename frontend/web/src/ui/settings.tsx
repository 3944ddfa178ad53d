/** What the user has a say in. */
import { useEffect, useRef } from 'preact/hooks';
import type { Model } from '../chat/model';
import { closeModal, showModal } from './modal';

export function Settings({ model, onClose }: { model: Model; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    showModal(dialog.current);
    return () => before?.focus();
  }, []);
  const { received, read } = model.receipts.value;
  return (
    <dialog class="question" ref={dialog} aria-labelledby="settings" onClose={onClose}>
      <h2 id="settings">What others see of you</h2>
      <p>
        <label class="choice">
          <input
            type="checkbox"
            checked={received}
            onChange={(event) => model.setReceipts({ received: event.currentTarget.checked, read: event.currentTarget.checked && read })}
          />
          <span>That I have received a message</span>
        </label>
        <label class="choice">
          <input
            type="checkbox"
            checked={read}
            onChange={(event) => model.setReceipts({ received: event.currentTarget.checked || received, read: event.currentTarget.checked })}
          />
          <span>That I have read it, and so received it</span>
        </label>
      </p>
      <div class="row">
        <button type="button" class="main" onClick={() => closeModal(dialog.current)}>
          Done
        </button>
      </div>
    </dialog>
  );
}
