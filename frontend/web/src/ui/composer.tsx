import { useSignal, type Signal } from '@preact/signals';
import type { RefObject } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import type { Conversation } from '../chat/conversation';
import { Clip, Close, Send } from './icons';

interface Properties {
  conversation: Conversation;
  input: RefObject<HTMLTextAreaElement | null>;
  failure: Signal<string>;
  /** False if it cannot be sent. */
  onText: (text: string) => boolean;
  onFiles: (files: Iterable<File>) => void;
}

/** Enter sends, Shift and Enter begin a new line. On a touch keyboard Enter is a new line, and the button sends. */
export function Composer({ conversation, input, failure, onText, onFiles }: Properties) {
  const chosen = useRef<HTMLInputElement>(null);
  const isEmpty = useSignal(conversation.draft.trim() === '');

  const fit = () => {
    const area = input.current;
    if (!area) return;
    area.style.height = 'auto';
    area.style.height = `${area.scrollHeight}px`;
  };
  useLayoutEffect(() => {
    if (input.current) input.current.value = conversation.draft;
    fit();
  }, [conversation]);
  const onInput = () => {
    conversation.draft = input.current?.value ?? '';
    isEmpty.value = conversation.draft.trim() === '';
    failure.value = '';
    fit();
  };
  const send = () => {
    const area = input.current;
    if (!area || area.value.trim() === '' || !onText(area.value)) return;
    area.value = '';
    conversation.draft = '';
    isEmpty.value = true;
    fit();
    area.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || !matchMedia('(any-pointer: fine)').matches) return;
    event.preventDefault();
    send();
  };
  const onPaste = (event: ClipboardEvent) => {
    const files = event.clipboardData?.files;
    if (!files?.length) return;
    event.preventDefault();
    onFiles(files);
  };
  const onChoose = () => {
    onFiles(chosen.current?.files ?? []);
    if (chosen.current) chosen.current.value = '';
    input.current?.focus();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <div class="failure" role="alert">
        {failure.value !== '' && (
          <>
            <span>{failure.value}</span>
            <button type="button" class="round small" aria-label="Dismiss" onClick={() => (failure.value = '')}>
              <Close />
            </button>
          </>
        )}
      </div>
      <div class="row">
        <input type="file" ref={chosen} multiple hidden onChange={onChoose} data-files />
        <button
          type="button"
          class="round"
          aria-label="Send files"
          title="Send files"
          onClick={() => chosen.current?.click()}
        >
          <Clip />
        </button>
        <textarea
          ref={input}
          rows={1}
          dir="auto"
          aria-label="Message"
          placeholder="Message"
          onInput={onInput}
          onKeyDown={onKeyDown}
          onPaste={onPaste}
        />
        <button type="submit" class="round send" aria-label="Send" title="Send" aria-disabled={isEmpty.value}>
          <Send />
        </button>
      </div>
    </form>
  );
}
