/** Signing out, after which nothing that was written stays on the computer: so it asks where something would be lost. */
import { useEffect, useRef } from 'preact/hooks';
import type { Model } from '../chat/model';
import { endSession } from '../session';
import { closeModal, showModal } from './modal';

export function signOut(model: Model): void {
  model.forget().catch((cause: unknown) => console.error('something that was not sent may still be on this computer:', cause));
  endSession();
}

export function SigningOut({ model, onStay }: { model: Model; onStay: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    showModal(dialog.current);
    return () => before?.focus();
  }, []);
  const { unsent } = model;
  const what = unsent === 0 ? 'What you have begun to write is not sent' : unsent === 1 ? 'A message is not sent yet' : `${unsent} messages are not sent yet`;
  return (
    <dialog class="question" ref={dialog} aria-labelledby="signing-out" aria-describedby="unsent" onClose={onStay}>
      <h2 id="signing-out">Sign out?</h2>
      <p id="unsent">{what}. Signing out removes from this computer what is not sent.</p>
      <div class="row">
        <button type="button" class="main" onClick={() => closeModal(dialog.current)}>
          Stay
        </button>
        <button type="button" class="main danger" onClick={() => signOut(model)}>
          Remove it and leave
        </button>
      </div>
    </dialog>
  );
}
