// The chosen options in the page's address, behind the #: they can be shared, and no server sees them.

/** Option → text, as the address has them. */
export function optionsInAddress() {
  return new URLSearchParams(window.location.hash.slice(1));
}

export function putIntoAddress(chosen) {
  const texts = new URLSearchParams();
  for (const [name, value] of Object.entries(chosen)) {
    texts.set(name, Array.isArray(value) ? value.join("\n") : (value ?? ""));
  }
  const hash = texts.toString();
  const address = window.location.pathname + window.location.search + (hash && `#${hash}`);
  window.history.replaceState(null, "", address);
}
