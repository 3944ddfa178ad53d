/** One message, with what stands before it: its day, and where the new ones begin. */
import { useComputed } from '@preact/signals';
import type { Outgoing } from 'chat-system-client';
import { useEffect, useRef, useState } from 'preact/hooks';
import { fileName, nameOf, pieces, size } from '../chat/content';
import type { Conversation, Shown } from '../chat/conversation';
import type { Model } from '../chat/model';
import { dayInWords, inWords, timeOfDay, whole } from '../words';
import { File } from './icons';
import { Mark } from './mark';
import { save } from './save';
import type { Picture } from './viewer';
import { Words } from './words';

/** Longer texts are folded. */
const LONG = { characters: 3000, lines: 40 };
const ONLY_EMOJI = /^(?:\p{RI}{2}|\p{Emoji_Presentation}[\p{EMod}\u200d\ufe0f\p{Extended_Pictographic}]*|\p{Extended_Pictographic}\ufe0f[\p{EMod}\u200d\ufe0f\p{Extended_Pictographic}]*|\s){1,6}$/u;

export interface Place {
  /** Of which day it is the first, in seconds. */
  day: number | null;
  /** The first that was not read when the conversation was opened. */
  firstNew: boolean;
  /** It goes on from the one before: same sender, shortly after. */
  joined: boolean;
}

interface Properties {
  shown: Shown;
  conversation: Conversation;
  place: Place;
  mine: boolean;
  onPicture: (picture: Picture) => void;
}

export function Message({ shown, conversation, place, mine, onPicture }: Properties) {
  return (
    <li class={classes(mine, place)} data-key={shown.key} data-id={shown.id} data-seq={shown.seq}>
      <Before place={place} />
      <div class="bubble">
        <From name={mine ? null : shown.from} />
        <Content shown={shown} onPicture={onPicture} />
        <span class="meta">
          <time translate={false} onPointerEnter={(event) => (event.currentTarget.title = whole(shown.sentAt))}>
            {timeOfDay(shown.sentAt)}
          </time>
          {mine && !conversation.self && <Progress conversation={conversation} seq={shown.seq} />}
        </span>
      </div>
    </li>
  );
}

export function OutgoingMessage(properties: { outgoing: Outgoing; state: Outgoing['state']; model: Model; place: Place }) {
  const { outgoing, state, model, place } = properties;
  const { text, data, contentType, error } = outgoing;
  const seconds = outgoing.createdAt / 1000;
  return (
    <li class={classes(true, place)} data-key={outgoing.key} data-state={state}>
      <Before place={place} />
      <div class="bubble">
        <From name={null} />
        {text === undefined ? (
          <Name name={nameOf(contentType) ?? 'File'} detail={data ? size(data.byteLength) : ''} />
        ) : (
          <Text text={text} />
        )}
        <span class="meta">
          <time translate={false}>{timeOfDay(seconds)}</time>
          <Mark state={state} />
        </span>
      </div>
      {state === 'failed' && (
        <p class="not-sent">
          <Words text={`Not sent. ${error ? inWords(error) : ''}`} />
          <button type="button" class="plain" onClick={() => model.retry(outgoing)}>
            Try again
          </button>
          <button type="button" class="plain" onClick={() => model.discard(outgoing)}>
            Discard
          </button>
        </p>
      )}
    </li>
  );
}

/** In the place of a message that cannot be drawn. */
export function Broken({ shown, place, mine }: { shown: Shown; place: Place; mine: boolean }) {
  return (
    <li class={classes(mine, place)} data-key={shown.key} data-id={shown.id} data-seq={shown.seq}>
      <div class="bubble">
        <From name={mine ? null : shown.from} />
        <em class="erased">This browser cannot show this message.</em>
      </div>
    </li>
  );
}

/** Whose message it is, for those who do not see on which side it stands. */
const From = ({ name }: { name: string | null }) => (
  <span class="unseen">
    {name === null ? <span>You</span> : <span translate={false}>{name}</span>}
    <span>: </span>
  </span>
);

const classes = (mine: boolean, { joined }: Place) => `message ${mine ? 'mine' : 'theirs'}${joined ? ' joined' : ''}`;

function Before({ place: { day, firstNew } }: { place: Place }) {
  return (
    <>
      {day !== null && (
        <div class="day">
          <span>{dayInWords(day)}</span>
        </div>
      )}
      {firstNew && (
        <div class="new">
          <span>New</span>
        </div>
      )}
    </>
  );
}

/** It alone is drawn anew when the other one has read on. */
function Progress({ conversation, seq }: { conversation: Conversation; seq: number }) {
  const state = useComputed(() => {
    if (seq <= conversation.theirRead.value) return 'read';
    return seq <= conversation.theirReceived.value ? 'delivered' : 'sent';
  });
  return <Mark state={state.value} />;
}

function Content({ shown, onPicture }: { shown: Shown; onPicture: (picture: Picture) => void }) {
  const { kind, text, blob, contentType, from } = shown;
  switch (kind) {
    case null:
      return <em class="erased">This message was erased.</em>;
    case 'text':
      return <Text text={text ?? ''} />;
    case 'picture':
      return blob ? <Thumbnail picture={{ blob, name: fileName(contentType, shown.id), from }} onOpen={onPicture} /> : null;
    case 'file': {
      const name = fileName(contentType, shown.id);
      const bytes = blob?.size ?? new TextEncoder().encode(text).length;
      return (
        <button type="button" class="file" title="Save" onClick={() => save(blob ?? text ?? '', name)}>
          <Name name={name} detail={size(bytes)} />
          <span class="unseen">, save</span>
        </button>
      );
    }
  }
}

const Name = ({ name, detail }: { name: string; detail: string }) => (
  <span class="file-name">
    <File />
    <span>
      <bdi translate={false}>{name}</bdi>
      <small>{detail}</small>
    </span>
  </span>
);

function Text({ text }: { text: string }) {
  const [whole, setWhole] = useState(false);
  const lines = text.split('\n', LONG.lines + 1);
  const isLong = text.length > LONG.characters || lines.length > LONG.lines;
  const part = isLong && !whole ? lines.slice(0, LONG.lines).join('\n').slice(0, LONG.characters).replace(/[\ud800-\udbff]$/, '') : text;
  return (
    <>
      {/* Another part of it is another element: what a browser that translates has made of this one stays in it. */}
      <span key={part.length} class={text.length < 40 && ONLY_EMOJI.test(text) ? 'text large' : 'text'} dir="auto">
        {pieces(part).map(({ text, href }) =>
          href === undefined ? (
            text
          ) : (
            <a href={href} target="_blank" rel="noopener noreferrer nofollow ugc">
              {text}
            </a>
          ),
        )}
        {part.length < text.length && '…'}
      </span>
      {isLong && (
        <button type="button" class="plain fold" aria-expanded={whole} onClick={() => setWhole(!whole)}>
          <Words text={whole ? 'Show less' : `Show all (${size(text.length)})`} />
        </button>
      )}
    </>
  );
}

function Thumbnail({ picture, onOpen }: { picture: Picture; onOpen: (picture: Picture) => void }) {
  const image = useRef<HTMLImageElement>(null);
  const [broken, setBroken] = useState(false);
  useEffect(() => {
    const address = URL.createObjectURL(picture.blob);
    if (image.current) image.current.src = address;
    return () => URL.revokeObjectURL(address);
  }, [picture.blob]);
  if (broken) {
    return (
      <button type="button" class="file" title="Save" onClick={() => save(picture.blob, picture.name)}>
        <Name name={picture.name} detail={`${size(picture.blob.size)}, not a picture that can be shown`} />
      </button>
    );
  }
  return (
    <button type="button" class="picture" aria-label={`Picture from ${picture.from}, enlarge`} onClick={() => onOpen(picture)}>
      <img ref={image} alt="" decoding="async" onError={() => setBroken(true)} />
    </button>
  );
}
