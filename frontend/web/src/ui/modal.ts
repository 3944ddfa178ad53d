/** Dialogs, which a browser without them shows as a box in the page. */
export function showModal(dialog: HTMLDialogElement | null): void {
  if (dialog?.showModal) dialog.showModal();
  else dialog?.setAttribute('open', '');
}

export function closeModal(dialog: HTMLDialogElement | null): void {
  if (dialog?.close) dialog.close();
  else dialog?.dispatchEvent(new Event('close'));
}
