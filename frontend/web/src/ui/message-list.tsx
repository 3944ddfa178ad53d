/**
 * The messages, of which only those around what can be seen are elements; two empty boxes have the height of the rest.
 *
 * A message's height is guessed until it was there once, and known from then on. What is in view does not move when
 * something above it changes, comes or goes: one message, the anchor, is put back to where it was, in the same frame,
 * before anything is painted. At the end of the list the end itself is the anchor.
 *
 * The window moves when fewer than `MARGIN` elements are left beyond the view: by a few elements each time, so that no
 * frame has much to do.
 */
import type { Outgoing } from 'chat-system-client';
import { Component, createRef, type ComponentChild } from 'preact';
import type { Conversation, Loading, Shown } from '../chat/conversation';
import type { Model } from '../chat/model';
import { dayNumber } from '../words';
import { Down } from './icons';
import { Message, OutgoingMessage, type Place } from './message';
import type { Picture } from './viewer';

/** Elements beyond the view, on each side. */
const OVER = 24;
const MARGIN = 18;
/** Elements at the beginning, before anything is known of heights. */
const FIRST = 40;
/** Older messages are asked for when so few are left above the view. */
const AHEAD = 60;
/** Pixels: nearer to the end than this is at the end. */
const NEAR = 40;
/** Seconds within which a message goes on from the one before. */
const TOGETHER = 300;

interface Properties {
  model: Model;
  conversation: Conversation;
  version: number;
  pending: readonly Outgoing[];
  loading: Loading;
  older: boolean;
  onPicture: (picture: Picture) => void;
}

interface Anchor {
  key: string;
  /** From the top of the view, in pixels. */
  top: number;
}

export class MessageList extends Component<Properties> {
  private readonly scroller = createRef<HTMLDivElement>();
  private readonly list = createRef<HTMLUListElement>();
  private readonly heights = new Map<string, number>();
  /** The heights of all, known or guessed, and what is above each, in pixels. */
  private sizes = new Float64Array(0);
  private tops = new Float64Array(1);
  /** For which messages the sizes are. */
  private sized: { version: number; pending: readonly Outgoing[] } | null = null;
  private start = 0;
  private end = 0;
  private firstSeq: number | null = null;
  private pendingCount = 0;
  /** The view follows the end. */
  private atEnd = true;
  private goesToEnd = false;
  private anchor: Anchor | null = null;
  private frame = 0;
  private width = 0;
  private observer: ResizeObserver | null = null;

  override render() {
    const { model, conversation, pending, loading, older, onPicture } = this.props;
    const { messages } = conversation;
    this.place();
    const rows = [];
    for (let at = this.start; at < this.end; at += 1) {
      const shown = messages[at];
      if (shown) {
        const mine = shown.from === model.me;
        const place = placeOf(messages, at, conversation.newFrom);
        rows.push(
          <Row key={shown.key} of={shown} place={place}>
            {() => <Message {...{ shown, conversation, place, mine, onPicture }} />}
          </Row>,
        );
        continue;
      }
      const outgoing = pending[at - messages.length];
      if (!outgoing) continue;
      const before = messages.at(-1);
      const seconds = outgoing.createdAt / 1000;
      const place = { day: before && dayNumber(before.sentAt) >= dayNumber(seconds) ? null : seconds, firstNew: false, joined: false };
      const { state } = outgoing;
      rows.push(<OutgoingMessage key={outgoing.key} {...{ outgoing, state, model, place }} />);
    }
    const rest = (this.tops.at(-1) ?? 0) - (this.tops[this.end] ?? 0);
    return (
      <div class="messages">
        <div
          class="scroller"
          ref={this.scroller}
          tabIndex={0}
          role="region"
          aria-label={`Messages with ${conversation.peer}`}
          onScroll={this.onScroll}
        >
          <div class="edge">
            {loading === 'failed' ? (
              <button type="button" class="plain" onClick={() => model.tryAgain()}>
                Older messages could not be loaded. Try again
              </button>
            ) : older ? (
              <span>Loading…</span>
            ) : (
              <span>This is where it begins.</span>
            )}
          </div>
          <div style={{ height: `${this.tops[this.start] ?? 0}px` }} />
          <ul ref={this.list}>{rows}</ul>
          <div style={{ height: `${Math.max(0, rest)}px` }} />
        </div>
        {!this.atEnd && <ToTheEnd conversation={conversation} onClick={this.toTheEnd} />}
      </div>
    );
  }

  override componentDidMount(): void {
    const [scroller, list] = [this.scroller.current, this.list.current];
    if (!scroller || !list) return;
    this.width = scroller.clientWidth;
    this.measure();
    const { newFrom } = this.props.conversation;
    const firstNew = newFrom === null ? null : list.querySelector<HTMLElement>(`[data-seq="${newFrom}"]`);
    scroller.scrollTop = scroller.scrollHeight;
    if (firstNew) {
      // Where the new ones begin is near the top, if there are more than there is room for.
      const top = this.topOf(firstNew) - scroller.clientHeight / 5;
      if (top < 0) scroller.scrollTop += top;
    }
    this.atEnd = this.isAtEnd();
    this.remember();
    this.observer = new ResizeObserver(this.onResize);
    this.observer.observe(scroller);
    this.observer.observe(list);
    for (const event of ['focus', 'visibilitychange']) addEventListener(event, this.look, true);
    this.update();
  }

  override componentWillUnmount(): void {
    this.observer?.disconnect();
    cancelAnimationFrame(this.frame);
    for (const event of ['focus', 'visibilitychange']) removeEventListener(event, this.look, true);
  }

  /** Preact calls this before it touches the elements. */
  override getSnapshotBeforeUpdate(): null {
    this.remember();
    return null;
  }

  override componentDidUpdate(): void {
    this.measure();
    this.restore();
    this.update();
  }

  /** Which messages are elements, and the heights of all. */
  private place(): void {
    const { conversation, pending } = this.props;
    const { messages } = conversation;
    // Whoever writes wants to see it.
    this.atEnd = this.isAtEnd() || this.goesToEnd || pending.length > this.pendingCount;
    this.goesToEnd = false;
    this.pendingCount = pending.length;
    const count = messages.length + pending.length;
    const first = messages[0]?.seq ?? null;
    if (this.firstSeq === null || first === null) {
      // It begins at the end, or at the first new message if that is further up.
      const { newFrom } = conversation;
      const newAt = first === null || newFrom === null || newFrom < first ? count : newFrom - first;
      this.start = Math.max(0, Math.min(count - FIRST, newAt - OVER));
      this.end = Math.min(count, this.start + 2 * FIRST);
    } else {
      // What was before the first one, or is not there any more.
      this.start += this.firstSeq - first;
      this.end += this.firstSeq - first;
    }
    if (this.atEnd && this.firstSeq !== null) {
      this.start += Math.max(0, count - this.end);
      this.end = count;
    }
    this.firstSeq = first;
    this.end = Math.max(0, Math.min(count, this.end));
    this.start = Math.max(0, Math.min(this.start, this.end));
    const { version } = this.props;
    if (this.sized?.version !== version || this.sized.pending !== pending) {
      this.sized = { version, pending };
      this.sizes = new Float64Array(count);
      this.tops = new Float64Array(count + 1);
      for (let at = 0; at < count; at += 1) {
        const shown = messages[at];
        const key = shown?.key ?? pending[at - messages.length]?.key ?? '';
        this.sizes[at] = this.heights.get(key) ?? (shown ? guess(shown) : 44);
      }
      this.stack(0);
    }
  }

  /** Puts them one above the other, from one on. */
  private stack(from: number): void {
    const { sizes, tops } = this;
    for (let at = from; at < sizes.length; at += 1) tops[at + 1] = (tops[at] ?? 0) + (sizes[at] ?? 0);
  }

  /** Moves the window, if the view comes near to its end; asks for what is older; says what was read. */
  private readonly update = (): void => {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const scroller = this.scroller.current;
    const list = this.list.current;
    if (!scroller || !list) return;
    const count = this.tops.length - 1;
    const wasAtEnd = this.atEnd;
    this.atEnd = this.isAtEnd();
    this.remember();
    const edge = list.offsetTop - (this.tops[this.start] ?? 0);
    const top = scroller.scrollTop - edge;
    const first = this.at(top);
    const last = Math.min(count, this.at(top + scroller.clientHeight) + 1);
    const tooFew = (this.start > 0 && first - this.start < MARGIN) || (this.end < count && this.end - last < MARGIN);
    if (tooFew) {
      this.start = Math.max(0, first - OVER);
      this.end = Math.min(count, last + OVER);
    }
    if (tooFew || wasAtEnd !== this.atEnd) this.forceUpdate();
    const { model, conversation } = this.props;
    if (first < AHEAD) void model.loadOlder(conversation);
    this.look();
  };

  /** Whoever is here has read what is in view. */
  private readonly look = (): void => {
    const scroller = this.scroller.current;
    const list = this.list.current;
    if (!scroller || !list || document.visibilityState !== 'visible' || !document.hasFocus()) return;
    const { model, conversation } = this.props;
    const edge = list.offsetTop - (this.tops[this.start] ?? 0);
    const at = this.atEnd ? conversation.messages.length - 1 : this.at(scroller.scrollTop - edge + scroller.clientHeight - NEAR);
    const shown = conversation.messages[Math.min(at, conversation.messages.length - 1)];
    if (shown) model.read(conversation, shown);
  };

  private readonly onScroll = (): void => {
    this.frame ||= requestAnimationFrame(this.update);
  };

  private readonly onResize = (): void => {
    const width = this.scroller.current?.clientWidth ?? 0;
    if (width !== this.width) {
      this.heights.clear();
      this.sized = null;
    }
    this.width = width;
    this.measure();
    this.restore();
    this.frame ||= requestAnimationFrame(this.update);
  };

  private readonly toTheEnd = (): void => {
    this.goesToEnd = true;
    this.forceUpdate();
    this.scroller.current?.focus();
  };

  /** The message at so many pixels from the first one's top. */
  private at(top: number): number {
    let [low, high] = [0, Math.max(0, this.tops.length - 2)];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.tops[middle] ?? 0) <= top) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  private isAtEnd(): boolean {
    const scroller = this.scroller.current;
    return !scroller || (this.end === this.tops.length - 1 && scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR);
  }

  private topOf(row: Element): number {
    return row.getBoundingClientRect().top - (this.scroller.current?.getBoundingClientRect().top ?? 0);
  }

  private measure(): void {
    let [at, changed] = [this.start, -1];
    for (const row of this.list.current?.children ?? []) {
      const { height } = row.getBoundingClientRect();
      if (this.sizes[at] !== height) {
        this.sizes[at] = height;
        if (changed < 0) changed = at;
      }
      const { key } = (row as HTMLElement).dataset;
      if (key !== undefined) this.heights.set(key, height);
      at += 1;
    }
    if (changed >= 0) this.stack(changed);
  }

  /** Takes the first message in view for the anchor. */
  private remember(): void {
    this.anchor = null;
    for (const row of this.list.current?.children ?? []) {
      const top = this.topOf(row);
      if (top + row.getBoundingClientRect().height <= 0) continue;
      this.anchor = { key: (row as HTMLElement).dataset['key'] ?? '', top };
      return;
    }
  }

  private restore(): void {
    const scroller = this.scroller.current;
    if (!scroller) return;
    if (this.atEnd) {
      scroller.scrollTop = scroller.scrollHeight;
      return;
    }
    const { anchor } = this;
    const row = anchor && this.list.current?.querySelector(`[data-key="${CSS.escape(anchor.key)}"]`);
    if (!row) return;
    const moved = this.topOf(row) - anchor.top;
    if (moved !== 0) scroller.scrollTop += moved;
  }
}

/** A message is drawn anew only when it, or what stands before it, is another. */
class Row extends Component<{ of: Shown; place: Place; children: () => ComponentChild }> {
  override shouldComponentUpdate(next: Readonly<{ of: Shown; place: Place }>): boolean {
    const { of, place } = this.props;
    const { day, firstNew, joined } = next.place;
    return of !== next.of || place.day !== day || place.firstNew !== firstNew || place.joined !== joined;
  }

  override render() {
    return this.props.children();
  }
}

function ToTheEnd({ conversation, onClick }: { conversation: Conversation; onClick: () => void }) {
  const unread = conversation.unread.value;
  return (
    <button type="button" class="to-the-end" onClick={onClick} aria-label={unread > 0 ? `${unread} new messages, to the newest` : 'To the newest'}>
      {unread > 0 && <span>{unread}</span>}
      <Down />
    </button>
  );
}

function placeOf(messages: readonly Shown[], at: number, newFrom: number | null): Place {
  const [before, shown] = [messages[at - 1], messages[at]];
  if (!shown) return { day: null, firstNew: false, joined: false };
  const sameDay = before !== undefined && dayNumber(before.sentAt) === dayNumber(shown.sentAt);
  const firstNew = shown.seq === newFrom;
  const joined = sameDay && !firstNew && before.from === shown.from && shown.sentAt - before.sentAt < TOGETHER;
  return { day: sameDay ? null : shown.sentAt, firstNew, joined };
}

/** Good enough to begin with. */
function guess(shown: Shown): number {
  if (shown.kind === 'picture') return 236;
  if (shown.kind === 'file') return 72;
  return 40 + 22 * Math.min(40, Math.floor((shown.text?.length ?? 0) / 60));
}
