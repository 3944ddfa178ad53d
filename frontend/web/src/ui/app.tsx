/** The page: signing in, or the conversations beside the one that is open. On a phone one of the two is there at a time. */
import { effect, useSignal, useSignalEffect } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import { Model, preview } from '../chat/model';
import { go, peer } from '../route';
import { session, type Session } from '../session';
import { Bubble } from './icons';
import { ConversationPane } from './conversation';
import { ConversationList } from './conversations';
import { SignIn } from './sign-in';
import { Words } from './words';

export function App() {
  const signedIn = session.value;
  return signedIn ? <Chat key={signedIn.userId} session={signedIn} /> : <SignIn />;
}

function Chat({ session }: { session: Session }) {
  const model = useMemo(() => new Model(session), [session]);
  useEffect(() => () => void model.close(), [model]);
  useEffect(
    () =>
      effect(() => {
        const unread = model.unread.value;
        document.title = unread > 0 ? `(${unread}) Chat` : 'Chat';
      }),
    [model],
  );
  const list = useRef<HTMLElement>(null);
  const open = peer.value;
  const leave = () => {
    const left = peer.value;
    go(null);
    requestAnimationFrame(() => {
      const entry = left === null ? null : list.current?.querySelector<HTMLElement>(`[data-peer="${CSS.escape(left)}"]`);
      (entry ?? list.current?.querySelector<HTMLElement>('button, input'))?.focus();
    });
  };
  return (
    <main class={open === null ? 'chat' : 'chat has-open'}>
      <h1 class="unseen">Chat</h1>
      <ConversationList model={model} pane={list} />
      {open === null ? <Nothing /> : <ConversationPane key={open} model={model} peer={open} onLeave={leave} />}
      <Announcer model={model} />
    </main>
  );
}

function Nothing() {
  return (
    <section class="pane nothing">
      <Bubble />
      <h2>Your messages</h2>
      <p>Choose a conversation, or start one with somebody’s user id.</p>
    </section>
  );
}

/** Says what comes to those who do not see it appear. */
function Announcer({ model }: { model: Model }) {
  const said = useSignal('');
  useSignalEffect(() => {
    const arrived = model.arrived.value;
    if (!arrived) return;
    said.value = `${arrived.from}: ${preview(arrived.shown)}`;
  });
  return (
    <div class="unseen" role="log" aria-live="polite" aria-label="New messages">
      {said.value !== '' && <Words text={said.value} />}
    </div>
  );
}
