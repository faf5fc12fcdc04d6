// Where the page is: alone or in TensorBoard's frame. Its hash and whether it is dark.
import {readHash, writeHash} from "./hash.js";

export class Address {
  constructor(isInTensorBoard) {
    this.isInTensorBoard = isInTensorBoard;
    this.window = isInTensorBoard ? window.parent : window;
  }

  read(url = this.window.location.href) {
    return readHash(new URL(url).hash, this.isInTensorBoard);
  }

  write(pairs) {
    const hash = writeHash(this.window.location.hash, pairs, this.isInTensorBoard);
    if (hash === this.window.location.hash) return;
    try {
      this.window.history.replaceState(this.window.history.state, "", hash);
    } catch {
      // A page inside `srcdoc` has no address to write.
    }
  }

  /** Calls back with the new address, which may have been overwritten by now. */
  onChange(callback) {
    this.window.addEventListener("hashchange", ({newURL}) => {
      if (!this.isInTensorBoard || new URL(newURL).hash.startsWith("#keras_sam")) callback(newURL);
    });
  }

  theme() {
    if (this.isInTensorBoard) {
      return this.window.document.body.classList.contains("dark-mode") ? "dark" : "light";
    }
    return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  onTheme(callback) {
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", callback);
    if (!this.isInTensorBoard) return;
    const options = {attributes: true, attributeFilter: ["class"]};
    new MutationObserver(callback).observe(this.window.document.body, options);
  }
}
