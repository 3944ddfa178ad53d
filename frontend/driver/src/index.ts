export { connect } from './chat.js';
export { ChatError } from './errors.js';
export type { FieldError, Problem } from './errors.js';
export type * from './types.js';
