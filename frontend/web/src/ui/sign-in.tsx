import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { ChatError } from 'chat-system-client';
import { facts } from '../server';
import { isUserId, signInWithToken, signInWithUserId } from '../session';
import { inWords } from '../words';
import { holdEnter, keyOf } from './keyboard';
import { Words } from './words';

export function SignIn() {
  const byToken = useSignal(!facts.development);
  return (
    <main class="sign-in">
      <div class="card">
        <img class="logo" src={new URL('../icon.svg', import.meta.url).href} alt="" width="48" height="48" />
        <h1>Chat</h1>
        {byToken.value ? <WithToken /> : <WithUserId />}
        {facts.development && (
          <button type="button" class="plain" onClick={() => (byToken.value = !byToken.value)}>
            <Words text={byToken.value ? 'Sign in with a user id' : 'Use a token instead'} />
          </button>
        )}
      </div>
    </main>
  );
}

function WithUserId() {
  const failure = useSignal('');
  const busy = useSignal(false);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.focus(), []);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy.value) return;
    const userId = input.current?.value.trim() ?? '';
    if (!isUserId(userId)) {
      failure.value = inWords({ code: 'user_id_invalid', status: 400 });
      input.current?.focus();
      return;
    }
    busy.value = true;
    try {
      await signInWithUserId(userId);
    } catch (error) {
      failure.value = error instanceof ChatError ? inWords(error) : String(error);
    }
    busy.value = false;
  };
  return (
    <form onSubmit={submit} noValidate onKeyDown={holdEnter}>
      <p id="who">This server is for development: be whoever you like.</p>
      <label for="user-id">User id</label>
      <input
        id="user-id"
        ref={input}
        autocomplete="username"
        autocapitalize="none"
        spellcheck={false}
        maxLength={32}
        placeholder="alice"
        aria-describedby="who failure"
        aria-invalid={failure.value !== ''}
        onInput={() => (failure.value = '')}
      />
      <Failure text={failure.value} />
      <button type="submit" class="main" aria-disabled={busy.value}>
        Sign in
      </button>
    </form>
  );
}

function WithToken() {
  const failure = useSignal('');
  const input = useRef<HTMLTextAreaElement>(null);
  useEffect(() => input.current?.focus(), []);
  const submit = (event: Event) => {
    event.preventDefault();
    if (signInWithToken(input.current?.value ?? '')) return;
    failure.value = 'That is no token with a user in it.';
    input.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (keyOf(event) === 'Enter' && !event.shiftKey) submit(event);
  };
  return (
    <form onSubmit={submit} noValidate>
      <p id="who">Paste the token (a JWT) that the user management gave you. It is kept until this tab is closed.</p>
      <label for="token">Token</label>
      <textarea
        id="token"
        ref={input}
        rows={5}
        autocomplete="off"
        spellcheck={false}
        aria-describedby="who failure"
        aria-invalid={failure.value !== ''}
        onInput={() => (failure.value = '')}
        onKeyDown={onKeyDown}
      />
      <Failure text={failure.value} />
      <button type="submit" class="main">
        Sign in
      </button>
    </form>
  );
}

const Failure = ({ text }: { text: string }) => (
  <p id="failure" class="failure" role="alert">
    {text !== '' && <Words text={text} />}
  </p>
);
