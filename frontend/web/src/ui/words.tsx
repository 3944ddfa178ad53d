import { createElement } from 'preact';

interface Properties {
  text: string;
  /** The element that the text stands in. */
  as?: 'span' | 'p' | 'strong' | 'bdi';
  class?: string;
  /** A name, a number or a time: nothing that a browser should translate. */
  fixed?: boolean;
}

/**
 * Text that changes. A browser that translates the page puts elements of its own in the place of text nodes, and what
 * is written into the old node is never seen. So the text has an element of its own, and another text another element.
 */
export function Words({ text, as = 'span', fixed, class: name }: Properties) {
  return createElement(as, { key: text, ...(name ? { class: name } : {}), ...(fixed ? { translate: false } : {}) } as object, text);
}
