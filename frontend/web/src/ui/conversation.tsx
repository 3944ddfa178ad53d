/** The conversation that is open: who it is with, its messages, and the composer. Files may be dropped anywhere on it. */
import { useSignal, useSignalEffect } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import type { Conversation } from '../chat/conversation';
import type { Model } from '../chat/model';
import { size } from '../chat/content';
import { facts } from '../server';
import { tooLarge } from '../words';
import { Avatar } from './avatar';
import { Composer } from './composer';
import { Trouble } from './connection';
import { Back } from './icons';
import { isDesk, keyOf } from './keyboard';
import { MessageList } from './message-list';
import { Notice } from './notice';
import { Viewer, type Picture } from './viewer';

interface Properties {
  model: Model;
  peer: string;
  onLeave: () => void;
}

export function ConversationPane({ model, peer, onLeave }: Properties) {
  const conversation = useMemo(() => {
    const found = model.with(peer);
    found.enter();
    return found;
  }, [model, peer]);
  const failures = useSignal<readonly string[]>([]);
  const dropping = useSignal(false);
  const picture = useSignal<Picture | null>(null);
  const input = useRef<HTMLTextAreaElement>(null);

  useSignalEffect(() => {
    // Again after the log has been loaded anew, when the messages are gone, and once what was loading meanwhile is done.
    void [conversation.version.value, model.loaded.value];
    if (model.loaded.value && conversation.loading.value === 'no') void model.open(conversation);
  });
  useEffect(() => {
    // A touch keyboard would cover what one came to read.
    if (isDesk()) input.current?.focus();
    return () => conversation.leave();
  }, [conversation]);

  const sendFiles = (files: Iterable<File>) => {
    const refused = new Set<string>();
    for (const file of files) {
      if (file.size > facts.contentLimit) refused.add(`${file.name}: ${tooLarge(file.size)}`);
      else if (file.size === 0) refused.add(`${file.name}: there is nothing in it.`);
      else model.send(conversation, file);
    }
    failures.value = [...refused];
  };
  const sendText = (text: string): boolean => {
    const bytes = new TextEncoder().encode(text).length;
    if (bytes > facts.contentLimit) {
      failures.value = [`This text has ${size(bytes)}: this server takes at most ${size(facts.contentLimit)}.`];
      return false;
    }
    failures.value = [];
    model.send(conversation, text);
    return true;
  };
  const onDrag = (event: DragEvent) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    dropping.value = event.type !== 'dragleave' || (event.currentTarget as Node).contains(event.relatedTarget as Node);
  };
  const onDrop = (event: DragEvent) => {
    dropping.value = false;
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    sendFiles(event.dataTransfer.files);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (keyOf(event) !== 'Escape' || event.defaultPrevented || picture.value) return;
    event.preventDefault();
    onLeave();
  };

  return (
    <section
      class={dropping.value ? 'pane conversation dropping' : 'pane conversation'}
      aria-label={`Conversation with ${peer}`}
      onDragEnter={onDrag}
      onDragOver={onDrag}
      onDragLeave={onDrag}
      onDrop={onDrop}
      onKeyDown={onKeyDown}
    >
      <header>
        <button type="button" class="round back" aria-label="Back to the conversations" title="Back" onClick={onLeave}>
          <Back />
        </button>
        <Avatar id={peer} />
        <div class="with">
          <h2 dir="auto" translate={false}>
            {conversation.self ? `${peer} (you)` : peer}
          </h2>
          <Trouble status={model.status.value} />
        </div>
      </header>
      <Notice model={model} />
      <Messages model={model} conversation={conversation} onPicture={(shown) => (picture.value = shown)} />
      <Composer
        conversation={conversation}
        input={input}
        failures={failures}
        onText={sendText}
        onFiles={sendFiles}
      />
      {dropping.value && (
        <div class="drop" aria-hidden="true">
          Drop files to send them
        </div>
      )}
      {picture.value && <Viewer picture={picture.value} onClose={() => (picture.value = null)} />}
    </section>
  );
}

function Messages(properties: { model: Model; conversation: Conversation; onPicture: (picture: Picture) => void }) {
  const { model, conversation, onPicture } = properties;
  // Whatever changes in the list is read here, and nowhere below but in what stands for itself.
  const version = conversation.version.value;
  const pending = conversation.pending.value;
  const loading = conversation.loading.value;
  const older = conversation.older.value;
  if (conversation.messages.length === 0 && pending.length === 0) {
    return (
      <div class="messages empty" role="status">
        {loading === 'failed' ? (
          <>
            <p key="failed">The messages could not be loaded.</p>
            <button type="button" class="main" onClick={() => model.tryAgain()}>
              Try again
            </button>
          </>
        ) : loading === 'first' || !conversation.opened ? (
          <p key="loading">Loading…</p>
        ) : (
          <p key="none">No messages yet. Say something.</p>
        )}
      </div>
    );
  }
  return (
    <MessageList
      model={model}
      conversation={conversation}
      version={version}
      pending={pending}
      loading={loading}
      older={older}
      onPicture={onPicture}
    />
  );
}
