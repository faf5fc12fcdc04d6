// The entry: `render` for TensorBoard's frame, `start` for the offline page.
import {Address} from "./address.js";
import {App} from "./app.js";
import {build} from "./dom.js";
import {serveDecoding} from "./decode.js";
import {PageSource} from "./source_page.js";
import {RouteSource} from "./source_routes.js";

/** TensorBoard calls this in an empty frame of the same origin. */
export function render() {
  document.head.append(build("link", {rel: "stylesheet", href: "./style.css"}));
  return start(document.body, new RouteSource());
}

/** Starts the viewer inside `root`. */
export function start(root, source) {
  if (root.kerasSam) return root.kerasSam;
  const app = new App(root, source, new Address(source instanceof RouteSource && window.parent !== window));
  root.kerasSam = app;
  app.start();
  return app;
}

// The offline page is one script, which starts itself and is also its own worker.
if (typeof document === "undefined") serveDecoding(self);
else if (document.getElementById("ks:runs")) start(document.body, new PageSource());
