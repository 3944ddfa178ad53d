import { Component, type ComponentChildren } from 'preact';

interface Properties {
  /** What stands there after something inside has thrown. */
  instead: () => ComponentChildren;
  children: ComponentChildren;
}

/** What throws inside takes nothing with it that is outside. */
export class Boundary extends Component<Properties, { failed: boolean }> {
  override state = { failed: false };

  static override getDerivedStateFromError(): { failed: boolean } {
    return { failed: true };
  }

  override componentDidCatch(error: unknown): void {
    console.error('a part of the page was left out:', error);
  }

  override render() {
    return this.state.failed ? this.props.instead() : this.props.children;
  }
}
