import { useSignal, type Signal } from '@preact/signals';
import type { RefObject } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import type { Conversation } from '../chat/conversation';
import { Clip, Close, Send } from './icons';
import { sends } from './keyboard';

interface Properties {
  conversation: Conversation;
  input: RefObject<HTMLTextAreaElement | null>;
  /** Why what was to be sent is not, a reason each. */
  failures: Signal<readonly string[]>;
  /** False if it cannot be sent. */
  onText: (text: string) => boolean;
  onFiles: (files: Iterable<File>) => void;
}

/**
 * Enter sends, Shift and Enter begin a new line. On a keyboard on the screen Enter is a new line, and the button sends. With
 * Ctrl or Cmd Enter sends on any.
 */
export function Composer({ conversation, input, failures, onText, onFiles }: Properties) {
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
    failures.value = [];
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
    if (!sends(event)) return;
    event.preventDefault();
    send();
  };
  const onPaste = (event: ClipboardEvent) => {
    const files = filesOf(event.clipboardData);
    if (files.length === 0) return;
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
        {failures.value.length > 0 && (
          <>
            <ul>
              {failures.value.map((failure) => (
                <li key={failure}>
                  <span>{failure}</span>
                </li>
              ))}
            </ul>
            <button type="button" class="round small" aria-label="Dismiss" onClick={() => (failures.value = [])}>
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

/**
 * The files of what is pasted. A spreadsheet and a word processor put a picture of the text beside it: then the text is
 * meant. A file manager puts the names of the files beside them: then the files are.
 */
function filesOf(pasted: DataTransfer | null): File[] {
  const files = [...(pasted?.files ?? [])];
  const names = new Set(files.map(({ name }) => name));
  const lines = (pasted?.getData('text/plain') ?? '').split(/[\r\n]+/).filter((line) => line.trim() !== '');
  const isName = (line: string) => names.has(line.trim()) || names.has(decoded(line.trim().replace(/^.*[/\\]/, '')));
  return lines.every(isName) ? files : [];
}

function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}
