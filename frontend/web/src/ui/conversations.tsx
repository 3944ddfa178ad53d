/** The conversations, the newest first, and the way to a new one. */
import { useSignal } from '@preact/signals';
import type { RefObject } from 'preact';
import { useRef } from 'preact/hooks';
import type { Conversation } from '../chat/conversation';
import { preview, type Model } from '../chat/model';
import { go, peer } from '../route';
import { isUserId } from '../session';
import { inWords, timeInShort } from '../words';
import { Avatar } from './avatar';
import { Boundary } from './boundary';
import { Connection } from './connection';
import { Close, Plus, SignOut, Sliders } from './icons';
import { holdEnter, keyOf } from './keyboard';
import { Mark } from './mark';
import { Notice } from './notice';
import { Settings } from './settings';
import { signOut, SigningOut } from './sign-out';
import { Words } from './words';

export function ConversationList({ model, pane }: { model: Model; pane: RefObject<HTMLElement | null> }) {
  const starting = useSignal(false);
  const asking = useSignal(false);
  const setting = useSignal(false);
  const toggle = useRef<HTMLButtonElement>(null);
  const stop = () => {
    starting.value = false;
    toggle.current?.focus();
  };
  return (
    <nav class="side" ref={pane} aria-label="Conversations">
      <header>
        <Avatar id={model.me} />
        <div class="who">
          <strong dir="auto" translate={false}>
            {model.me}
          </strong>
          <Connection status={model.status.value} />
        </div>
        <button
          type="button"
          class="round"
          ref={toggle}
          aria-label="Start a conversation"
          aria-expanded={starting.value}
          title="Start a conversation"
          onClick={() => (starting.value = !starting.value)}
        >
          {starting.value ? <Close /> : <Plus />}
        </button>
        <button type="button" class="round" aria-label="Settings" title="Settings" onClick={() => (setting.value = true)}>
          <Sliders />
        </button>
        <button
          type="button"
          class="round"
          aria-label="Sign out"
          title="Sign out"
          onClick={() => (model.hasUnsent ? (asking.value = true) : signOut(model))}
        >
          <SignOut />
        </button>
      </header>
      {setting.value && <Settings model={model} onClose={() => (setting.value = false)} />}
      {asking.value && <SigningOut model={model} onStay={() => (asking.value = false)} />}
      <Notice model={model} />
      {starting.value && <Start onDone={() => (starting.value = false)} onStop={stop} />}
      <Entries model={model} onStart={() => (starting.value = true)} />
    </nav>
  );
}

function Start({ onDone, onStop }: { onDone: () => void; onStop: () => void }) {
  const failure = useSignal('');
  const submit = (event: Event) => {
    event.preventDefault();
    const field = (event.currentTarget as HTMLFormElement).elements.namedItem('with') as HTMLInputElement;
    const to = field.value.trim();
    if (!isUserId(to)) {
      failure.value = inWords({ code: 'user_id_invalid', status: 400 });
      field.focus();
      return;
    }
    onDone();
    go(to);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    holdEnter(event);
    if (keyOf(event) === 'Escape') onStop();
  };
  return (
    <form class="start" onSubmit={submit} noValidate onKeyDown={onKeyDown}>
      <label for="with">With whom?</label>
      <div class="row">
        <input
          id="with"
          name="with"
          ref={(input) => input?.focus()}
          autocomplete="off"
          autocapitalize="none"
          spellcheck={false}
          maxLength={32}
          placeholder="A user id"
          aria-describedby="start-failure"
          aria-invalid={failure.value !== ''}
          onInput={() => (failure.value = '')}
        />
        <button type="submit" class="main">
          Start
        </button>
      </div>
      <p id="start-failure" class="failure" role="alert">
        {failure.value !== '' && <Words text={failure.value} />}
      </p>
    </form>
  );
}

function Entries({ model, onStart }: { model: Model; onStart: () => void }) {
  const list = useRef<HTMLUListElement>(null);
  const all = model.conversations.value;
  const open = peer.value;
  if (all.length === 0) {
    return (
      <div class="empty" role="status">
        {model.loaded.value ? (
          <>
            <p key="none">No conversations yet.</p>
            <button type="button" class="main" onClick={onStart}>
              Start the first one
            </button>
          </>
        ) : (
          <p key="loading">Loading…</p>
        )}
      </div>
    );
  }
  // One of the entries is in the way of Tab, the arrows lead to the others.
  const current = all.find((one) => one.peer === open) ?? all[0];
  const onKeyDown = (event: KeyboardEvent) => {
    const entries = [...(list.current?.querySelectorAll<HTMLElement>('button') ?? [])];
    const at = entries.indexOf(document.activeElement as HTMLElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: entries.length - 1 }[keyOf(event)];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    entries[Math.max(0, Math.min(to, entries.length - 1))]?.focus();
  };
  return (
    <ul class="entries" ref={list} onKeyDown={onKeyDown}>
      {all.map((conversation) => (
        <Boundary key={conversation.id} instead={() => null}>
          <Entry conversation={conversation} open={conversation.peer === open} inTheWay={conversation === current} />
        </Boundary>
      ))}
      {model.moreConversations.value && (
        <li>
          <button type="button" class="plain more" tabIndex={-1} onClick={() => void model.loadMoreConversations()}>
            Older conversations
          </button>
        </li>
      )}
    </ul>
  );
}

function Entry({ conversation, open, inTheWay }: { conversation: Conversation; open: boolean; inTheWay: boolean }) {
  const { peer: name, self, unread, last, pending } = conversation;
  const newest = pending.value[pending.value.length - 1];
  const count = unread.value;
  return (
    <li>
      <button
        type="button"
        class={open ? 'entry open' : 'entry'}
        data-peer={name}
        data-unread={count}
        aria-current={open ? 'true' : undefined}
        tabIndex={inTheWay ? 0 : -1}
        onClick={() => go(name)}
      >
        <Avatar id={name} />
        <span class="name" dir="auto" translate={false}>
          {self ? `${name} (you)` : name}
        </span>
        <time class="when" translate={false}>
          {last.value && !newest ? timeInShort(last.value.sentAt) : ''}
        </time>
        <span class="last" dir="auto">
          {newest ? (
            <>
              <Mark state={newest.state} />
              <Words text={newest.text === undefined ? 'File' : newest.text.slice(0, 200)} />
            </>
          ) : (
            last.value && (
              <>
                {last.value.from !== name && !self && <span class="you">You: </span>}
                <Words text={preview(last.value)} />
              </>
            )
          )}
        </span>
        {count > 0 && (
          <span class="count">
            <Words text={count > 999 ? '999+' : String(count)} fixed />
            <span class="unseen"> unread</span>
          </span>
        )}
      </button>
    </li>
  );
}
