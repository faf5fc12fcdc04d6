"""Tables of tokens: what each attends to, and which have the largest weights."""

import numpy as np

from keras_sam.callbacks._summaries import escape_markdown

# TensorBoard takes a minute for a table of 2,048 rows.
MOST_ROWS = 64
_RANKS = ("**most**", "**second**", "**third**")
_BARS = " ▁▂▃▄▅▆▇█"


def attended(maps, labels, head=None):
    """Returns rows that say which keys each query attends to most, the header first.

    At most `MOST_ROWS` queries: those whose largest weight stands out most from uniform
    attention, in order. Words have their positions before them.

    Args:
        maps: The `PairMaps` of each example.
        labels: The words of queries and of keys, a pair for each example. Queries behind
            the last word are padding, and left out.
        head: The index of the head, or None for the mean over the heads.
    """
    index = 0 if head is None else head + 1
    found = []
    for example, (each, (queries, keys)) in enumerate(zip(maps, labels, strict=True)):
        best, weights = each.best[index], each.best_weights[index]
        for query, name in enumerate(queries[: len(best)]):
            cells = [
                f"{_name(key, keys)} ({weight:.2f})"
                for key, weight in zip(best[query], weights[query], strict=True)
                if weight > 0
            ]
            cells += [""] * (len(_RANKS) - len(cells))
            strength = weights[query].max(initial=0) * each.keys[query]
            row = (str(example), f"{query} {escape_markdown(name)}", *cells)
            found.append((strength if each.keys[query] > 1 else 0, row))
    order = np.argsort([-strength for strength, _ in found], kind="stable")
    chosen = sorted(order[:MOST_ROWS])
    return [("**example**", "**query**", *_RANKS), *(found[n][1] for n in chosen)]


def of_parts(parts, labels):
    """Returns rows that say which tokens have the largest weights, the header first.

    Args:
        parts: The weights `(H, T)` of each example.
        labels: The words of each example, which may leave out padding behind.
    """
    rows = [("**example**", "**head**", *_RANKS, "**all**")]
    for example, (weights, words) in enumerate(zip(parts, labels, strict=True)):
        for head, row in enumerate(weights):
            best = np.argsort(-row[: len(words)], kind="stable")[: len(_RANKS)]
            cells = [f"{_name(n, words)} ({row[n]:.2f})" for n in best if row[n] > 0]
            cells += [""] * (len(_RANKS) - len(cells))
            rows.append((str(example), str(head), *cells, _bars(row, words)))
    return rows[: 1 + MOST_ROWS]


def _name(position, words):
    """Returns a position and its word, as it looks in a Markdown cell."""
    if position >= len(words):
        return str(position)
    return f"{position} {escape_markdown(words[position])}"


def _bars(weights, words):
    """Returns the words, a bar before each, as high as its weight is of the largest.

    Of more than `MOST_ROWS` words, those with the largest weights, with dots between.
    """
    weights = np.nan_to_num(weights[: len(words)], posinf=0)
    shares = weights / max(weights.max(initial=0), np.finfo("float32").tiny)
    heights = np.ceil(shares * (len(_BARS) - 1)).astype(int)
    shown = set(np.argsort(-weights, kind="stable")[:MOST_ROWS].tolist())
    cells = []
    for position, word in enumerate(words):
        if position in shown:
            cells.append(f"{_BARS[heights[position]]}{escape_markdown(word)}".strip())
        elif cells and cells[-1] != "…":
            cells.append("…")
    return " ".join(cells)
