import { useEffect, useRef } from 'preact/hooks';
import { save } from './save';
import { Close } from './icons';
import { closeModal, showModal } from './modal';

export interface Picture {
  blob: Blob;
  name: string;
  from: string;
}

/** A picture as large as there is room. */
export function Viewer({ picture, onClose }: { picture: Picture; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const image = useRef<HTMLImageElement>(null);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    const address = URL.createObjectURL(picture.blob);
    if (image.current) image.current.src = address;
    showModal(dialog.current);
    return () => {
      URL.revokeObjectURL(address);
      before?.focus();
    };
  }, [picture]);
  return (
    <dialog
      class="viewer"
      ref={dialog}
      aria-label={`Picture from ${picture.from}`}
      onClose={onClose}
      onClick={(event) => event.target === dialog.current && closeModal(dialog.current)}
    >
      <img ref={image} alt={`Picture from ${picture.from}`} />
      <div class="row">
        <button type="button" class="main" onClick={() => save(picture.blob, picture.name)}>
          Save
        </button>
        <button type="button" class="round" aria-label="Close" onClick={() => closeModal(dialog.current)}>
          <Close />
        </button>
      </div>
    </dialog>
  );
}
