import { useEffect, useRef } from 'preact/hooks';
import { save } from './save';
import { Close } from './icons';

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
    dialog.current?.showModal();
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
      onClick={(event) => event.target === dialog.current && dialog.current?.close()}
    >
      <img ref={image} alt={`Picture from ${picture.from}`} />
      <div class="row">
        <button type="button" class="main" onClick={() => save(picture.blob, picture.name)}>
          Save
        </button>
        <button type="button" class="round" aria-label="Close" onClick={() => dialog.current?.close()}>
          <Close />
        </button>
      </div>
    </dialog>
  );
}
