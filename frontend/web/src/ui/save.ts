/** Offers bytes for saving. Under a type that no browser opens by itself, so nothing that somebody sent runs here. */
export function save(content: Blob | string, name: string): void {
  const address = URL.createObjectURL(new Blob([content], { type: 'application/octet-stream' }));
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  // The browser has taken it by then.
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
