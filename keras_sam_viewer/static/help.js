// Help: the keys, the badges and what the statistics mean; and what attention is not.
import {build} from "./dom.js";
import {KEY_HELP} from "./keys.js";
import {STATISTICS} from "./statistics.js";

const BADGES = [
  ["1 key", "one key receives half of the weight, or more, of the queries that may see it"],
  ["= h2", "less than 10 % of the weight differs from head 2"],
  ["flat", "entropy of 0.98 or more: nearly even over all keys"],
  ["prev, self", "half of the weight or more is on the previous key, on the query itself"],
];

export class Help {
  constructor() {
    const list = (pairs) => build("dl", {}, ...pairs.flatMap(([term, text]) => [build("dt", {}, term), build("dd", {}, text)]));
    this.root = build("dialog", {class: "ks-help", "aria-label": "Help"},
      build("button", {type: "button", class: "ks-round", "aria-label": "Close", onclick: () => this.root.close()}, "×"),
      build("div", {class: "ks-help-columns"},
        build("div", {}, build("h2", {}, "Keys"), list(KEY_HELP), build("h2", {}, "Badges"), list(BADGES)),
        build("div", {}, build("h2", {}, "Statistics"),
          list(Object.values(STATISTICS).map(([label, meaning]) => [label, meaning])),
          build("h2", {}, "Colours"),
          build("p", {}, "Weights are shown as multiples of uniform: 1× is what every key would get if all that are allowed got the same. Where a cell is smaller than a pixel, the largest weight is shown."),
          build("p", {}, "A weight says how much of a value was added, not why the model answered as it did."))));
  }

  toggle() {
    if (this.root.open) this.root.close();
    else this.root.showModal();
  }
}
