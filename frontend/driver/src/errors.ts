import { told } from './time.js';

/** What is wrong with one part of a request; exactly one of `pointer`, `parameter` and `header` says which. */
export interface FieldError {
  pointer?: string;
  parameter?: string;
  header?: string;
  detail: string;
}

/** Problem details (RFC 9457), as the server sends them. */
export interface Problem {
  code: string;
  status: number;
  title: string;
  detail?: string;
  request_id?: string;
  retry_after?: number;
  errors?: FieldError[];
  [field: string]: unknown;
}

/**
 * Every failure. `code` is the server's own (`content_too_large`), which never changes its meaning, or one of these:
 *
 * | code | |
 * |---|---|
 * | `network` | no answer, or not to its end |
 * | `timeout` | no answer in time |
 * | `answer_invalid` | an answer that is not the server's: a proxy's, by its status |
 * | `head_too_large` | a proxy refuses the head of every request: the token is too large for it |
 * | `token_unavailable` | the function that gets tokens failed |
 * | `user_unknown` | the token does not say whose it is, and `userId` is not given |
 * | `draft_invalid` | a message with neither or both of `text` and `data` |
 * | `queue_full` | 10,000 messages wait already |
 * | `discarded` | by `discard` |
 * | `closed` | by `close` |
 * | `handler` | a handler threw; `cause` is what it threw |
 * | `store` | the store failed; `cause` is what it threw |
 * | `seq_hole` | messages that history does not have either |
 */
export class ChatError extends Error {
  override readonly name = 'ChatError';
  readonly code: string;
  /** The HTTP status that goes with the code; 0 where there was no answer. */
  readonly status: number;
  /** Seconds after which the same may succeed, as they were told. It is the library that bounds its own pauses. */
  readonly retryAfter: number | undefined;
  /** The whole refusal. */
  readonly problem: Problem | undefined;

  constructor(
    code: string,
    message: string,
    options: { status?: number; retryAfter?: number; problem?: Problem; cause?: unknown } = {},
  ) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.status = options.status ?? 0;
    this.retryAfter = options.retryAfter;
    this.problem = options.problem;
  }

  static of(problem: Problem): ChatError {
    const { code, status, title, detail, retry_after } = problem;
    return new ChatError(code, detail ?? title ?? code, {
      status,
      problem,
      ...withRetryAfter(told(retry_after, 0, Infinity)),
    });
  }

  /** The same may succeed soon. A new conversation that has to wait for up to an hour must not hold up the others. */
  get temporary(): boolean {
    if (this.code === 'too_many_conversations') return false;
    return this.status === 0 ? this.code === 'network' || this.code === 'timeout' : this.status >= 500 || this.status === 429 || this.status === 408;
  }

  /** What stands between refuses, and says nothing that makes it better by itself. */
  get foreign(): boolean {
    return !this.problem && this.status >= 400 && this.status < 500 && !this.temporary;
  }

  /** Another token is needed. */
  get unauthorized(): boolean {
    return this.status === 401;
  }
}

/** As an option of `ChatError`. */
export function withRetryAfter(retryAfter: number | undefined): { retryAfter?: number } {
  return retryAfter === undefined ? {} : { retryAfter };
}
