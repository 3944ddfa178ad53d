/**
 * The messages, of which only those around what can be seen are elements; two empty boxes have the height of the rest.
 *
 * A message's height is guessed until it was there once, and known from then on. What is in view does not move when
 * something above it changes, comes or goes: one message, the anchor, is put back to where it was, in the same frame,
 * before anything is painted. At the end of the list the end itself is the anchor, as far as that leaves the first unread
 * message in view: what nobody has seen is not scrolled away.
 *
 * Read is what was in view, from the first unread message on and without a gap. Whoever goes to the end himself has read all.
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
import { Boundary } from './boundary';
import { Broken, Message, OutgoingMessage, type Place } from './message';
import type { Picture } from './viewer';
import { Words } from './words';

/** Elements beyond the view, on each side. */
const OVER = 24;
const MARGIN = 18;
/** Elements at the beginning, before anything is known of heights. */
const FIRST = 40;
/** Older and newer messages are asked for when so few are left beyond the view. */
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
  private run = -1;
  private lastSeq = 0;
  /** Something has come since it was drawn. */
  private grew = false;
  private pendingCount = 0;
  /** The view follows the end. */
  private atEnd = true;
  /** What of it the elements are, which are drawn anew only after this turn. */
  private drawn = { start: 0, atEnd: true };
  private goesToEnd = false;
  /** What was in view and is not read, because there is something before it that was not: by `seq`. */
  private readonly seen = new Set<number>();
  /** The run is another one: where it begins is to be found. */
  private fresh = false;
  private anchor: Anchor | null = null;
  private frame = 0;
  private width = 0;
  private observer: ResizeObserver | null = null;

  override render() {
    const { model, conversation, pending, loading, older, onPicture } = this.props;
    const { messages } = conversation;
    this.place();
    this.drawn = { start: this.start, atEnd: this.atEnd };
    const rows = [];
    for (let at = this.start; at < this.end; at += 1) {
      const shown = messages[at];
      if (shown) {
        const mine = shown.from === model.me;
        const place = placeOf(messages, at, conversation.newFrom);
        rows.push(
          <Row key={shown.key} of={shown} place={place}>
            {() => (
              <Boundary instead={() => <Broken {...{ shown, place, mine }} />}>
                <Message {...{ shown, conversation, place, mine, onPicture }} />
              </Boundary>
            )}
          </Row>,
        );
        continue;
      }
      const outgoing = pending[at - messages.length];
      if (!outgoing) continue;
      const before = messages[messages.length - 1];
      const seconds = outgoing.createdAt / 1000;
      const place = { day: before && dayNumber(before.sentAt) >= dayNumber(seconds) ? null : seconds, firstNew: false, joined: false };
      const { state } = outgoing;
      rows.push(<OutgoingMessage key={outgoing.key} {...{ outgoing, state, model, place }} />);
    }
    const { newer } = conversation;
    const rest = (this.tops[this.tops.length - 1] ?? 0) - (this.tops[this.end] ?? 0);
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
            ) : (
              <Words text={older ? 'Loading…' : 'This is where it begins.'} />
            )}
          </div>
          <div style={{ height: `${this.tops[this.start] ?? 0}px` }} />
          <ul ref={this.list}>{rows}</ul>
          <div style={{ height: `${Math.max(0, rest)}px` }} />
          {newer && (
            <div class="edge after">
              {loading === 'failed' ? (
                <button type="button" class="plain" onClick={() => model.tryAgain()}>
                  Newer messages could not be loaded. Try again
                </button>
              ) : (
                <span>Loading…</span>
              )}
            </div>
          )}
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
    this.toTheFirst(this.props.conversation.newFrom);
    this.fresh = false;
    this.atEnd = this.isAtEnd();
    this.remember();
    if (typeof ResizeObserver === 'undefined') {
      addEventListener('resize', this.onResize);
    } else {
      this.observer = new ResizeObserver(this.onResize);
      this.observer.observe(scroller);
      this.observer.observe(list);
    }
    for (const event of ['focus', 'visibilitychange']) addEventListener(event, this.look, true);
    this.update();
  }

  override componentWillUnmount(): void {
    this.observer?.disconnect();
    removeEventListener('resize', this.onResize);
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
    this.goesToEnd ||= pending.length > this.pendingCount;
    const goes = this.goesToEnd && !conversation.newer;
    this.atEnd = this.isAtEnd() || goes;
    this.pendingCount = pending.length;
    const lastSeq = messages[messages.length - 1]?.seq ?? 0;
    this.grew = lastSeq > this.lastSeq;
    this.lastSeq = lastSeq;
    if (this.run !== conversation.run) {
      this.firstSeq = null;
      this.fresh = true;
    }
    this.run = conversation.run;
    const count = messages.length + pending.length;
    const first = messages[0]?.seq ?? null;
    if (this.firstSeq === null || first === null) {
      // It begins at the end, or at the first new message if that is further up.
      const { newFrom } = conversation;
      const newAt = goes || first === null || newFrom === null || newFrom < first ? count : newFrom - first;
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
      // It follows the end only as far as what nobody has seen stays in view.
      const unreadAt = goes || !this.grew || first === null || conversation.unread.peek() === 0 ? count : conversation.myRead.peek() + 1 - first;
      if (unreadAt >= 0 && unreadAt - OVER < this.start) {
        this.start = Math.max(0, unreadAt - OVER);
        this.end = Math.min(count, this.start + 4 * FIRST);
      }
    }
    this.firstSeq = first;
    this.end = Math.max(0, Math.min(count, this.end));
    this.start = Math.max(0, Math.min(this.start, this.end));
    const version = conversation.version.peek();
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
    this.atEnd = this.isAtEnd();
    this.remember();
    const top = this.viewTop(scroller, list);
    const first = this.at(top);
    const last = Math.min(count, this.at(top + scroller.clientHeight) + 1);
    const tooFew = (this.start > 0 && first - this.start < MARGIN) || (this.end < count && this.end - last < MARGIN);
    if (tooFew) {
      this.start = Math.max(0, first - OVER);
      this.end = Math.min(count, last + OVER);
    }
    const changed = tooFew || this.drawn.atEnd !== this.atEnd;
    if (changed) this.forceUpdate();
    const { model, conversation } = this.props;
    if (first < AHEAD) void model.loadOlder(conversation);
    if (count - last < AHEAD) void model.loadNewer(conversation);
    // What is drawn anew is looked at then; the end is the end.
    if (!changed || this.atEnd) this.look();
  };

  /** Whoever is here sees what is in view, and has read what he has seen without a gap. */
  private readonly look = (): void => {
    const scroller = this.scroller.current;
    const list = this.list.current;
    if (!scroller || !list || document.visibilityState !== 'visible' || !document.hasFocus()) return;
    const { model, conversation } = this.props;
    const { messages, newer } = conversation;
    const oldest = messages[0]?.seq ?? 0;
    let upTo = conversation.myRead.peek();
    if (this.atEnd && !newer) {
      upTo = oldest + messages.length - 1;
    } else {
      const top = this.viewTop(scroller, list);
      const bottom = top + scroller.clientHeight + 1;
      // A message is seen when its end is in view: it may be larger than the view.
      for (let at = this.at(top); at < messages.length && (this.tops[at + 1] ?? 0) <= bottom; at += 1) {
        const enough = Math.min(NEAR, this.sizes[at] ?? 0);
        if ((this.tops[at + 1] ?? 0) - top >= enough - 1) this.seen.add(oldest + at);
      }
      while (this.seen.delete(upTo + 1)) upTo += 1;
    }
    const shown = messages[upTo - oldest];
    if (shown) model.read(conversation, shown);
  };

  private readonly onScroll = (): void => {
    if (this.props.loading === 'failed') this.goesToEnd = false;
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

  private readonly toTheEnd = async (): Promise<void> => {
    const { model, conversation } = this.props;
    this.goesToEnd = true;
    this.scroller.current?.focus();
    await model.loadNewest(conversation);
    // It may be out of reach.
    this.goesToEnd &&= !conversation.newer;
    this.forceUpdate();
  };

  /** How far below the first message's top the view begins. */
  private viewTop(scroller: HTMLElement, list: HTMLElement): number {
    return scroller.scrollTop - list.offsetTop + (this.tops[this.drawn.start] ?? 0);
  }

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
    return !scroller || (!this.props.conversation.newer && this.end === this.tops.length - 1 && scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR);
  }

  /** To the end, or to a message if it would be out of view then: somewhat below the top. */
  private toTheFirst(seq: number | null): void {
    const scroller = this.scroller.current;
    if (!scroller) return;
    scroller.scrollTop = scroller.scrollHeight;
    const row = seq === null ? null : this.list.current?.querySelector<HTMLElement>(`[data-seq="${seq}"]`);
    const top = row ? this.topOf(row) - scroller.clientHeight / 5 : 0;
    if (top < 0) scroller.scrollTop += top;
  }

  private topOf(row: Element): number {
    return row.getBoundingClientRect().top - (this.scroller.current?.getBoundingClientRect().top ?? 0);
  }

  private measure(): void {
    let [at, changed] = [this.drawn.start, -1];
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
    const { conversation } = this.props;
    if (this.goesToEnd && !conversation.newer) {
      this.toTheFirst(null);
      this.goesToEnd = this.fresh = false;
      return;
    }
    if (this.fresh) {
      this.toTheFirst(conversation.newFrom);
      this.fresh = false;
      return;
    }
    if (this.atEnd) {
      this.toTheFirst(this.grew && conversation.unread.peek() > 0 ? conversation.myRead.peek() + 1 : null);
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
      {unread > 0 && <Words text={String(unread)} fixed />}
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
