"""Tokens beside attention: checking them, and the table of what each attends to."""

import numpy as np

from keras_sam import _validation as check
from keras_sam.callbacks._summaries import escape_markdown

_LISTS = "a list with one list of strings for each example"
_EXPECTED = (
    f"{_LISTS}, a dictionary with such lists as 'query' and 'key', or a dictionary of "
    "either by layer path"
)
_HEADER = ("**example**", "**query**", "**most**", "**second**", "**third**")
_SHOWN = len(_HEADER) - 2
_HEADER_OF_PARTS = ("**example**", "**head**", "**most**", "**second**", "**third**")
_BARS = " ▁▂▃▄▅▆▇█"


def check_tokens(tokens, examples):
    """Returns tokens as `{path or None: (query tokens, key tokens)}`, or raises.

    Under None are those for all layers of their kind: with query and key the same
    object for self-attention and selective attention, with two for cross-attention.
    """
    if tokens is None:
        return {}
    if not isinstance(tokens, dict) or set(tokens) == {"query", "key"}:
        return {None: _pair("tokens", tokens, examples)}
    return {
        path: _pair(f"tokens[{path!r}]", value, examples) for path, value in tokens.items()
    }


def _pair(name, tokens, examples):
    if isinstance(tokens, dict):
        if set(tokens) != {"query", "key"}:
            raise check.invalid(name, _EXPECTED, tokens)
        return tuple(
            _lists(f"{name}[{side!r}]", tokens[side], examples) for side in ("query", "key")
        )
    lists = _lists(name, tokens, examples)
    return lists, lists


def _lists(name, tokens, examples):
    if not _is_sequence(tokens) or not all(
        _is_sequence(example) and all(isinstance(token, str) for token in example)
        for example in tokens
    ):
        raise check.invalid(name, _EXPECTED, tokens)
    if len(tokens) != examples:
        expected = f"as many lists as `inputs` has examples ({examples})"
        raise check.invalid(name, expected, tokens)
    return [[str(token) for token in example] for example in tokens]


def _is_sequence(value):
    return isinstance(value, list | tuple | np.ndarray)


def tokens_for(tokens, path, details):
    """The pair of tokens for a layer, or None."""
    if path in tokens:
        return tokens[path]
    pair = tokens.get(None)
    if pair is None:
        return None
    if details.kind == "selective":
        plain = details.key_grid is None and not details.are_features
        return pair if plain and pair[0] is pair[1] else None
    wanted = "self" if pair[0] is pair[1] else "cross"
    return pair if details.kind == wanted else None


def table_of_parts(weights, tokens, examples):
    """Rows that say which tokens have the largest weights, and show all of them as bars.

    Args:
        weights: Array `(B, H, T)`.
        tokens: A list of strings for each example, which may leave out padding behind.
        examples: How many examples to show.

    Returns:
        Rows of Markdown cells, the header first.
    """
    heads = [f"{head}" for head in range(weights.shape[1])]
    # Heads are to the tokens what queries are to keys.
    pair = [heads] * len(tokens), tokens
    _, *rows = attended_table(weights[:, None], pair, examples)
    lists = [
        (example, head) for example in range(len(weights)) for head in range(len(heads))
    ]
    rows = [
        (*row, _bars(weights[example, head], tokens[example]))
        for row, (example, head) in zip(rows, lists, strict=False)
    ]
    return [(*_HEADER_OF_PARTS, "**all**"), *rows]


def _bars(weights, tokens):
    """A bar before each token, as high as its weight is of the largest."""
    shares = weights[: len(tokens)] / max(weights.max(), np.finfo("float32").tiny)
    heights = np.ceil(shares * (len(_BARS) - 1)).astype(int)
    words = (
        f"{_BARS[height]}{escape_markdown(token)}".strip()
        for height, token in zip(heights, tokens, strict=True)
    )
    return " ".join(words)


def attended_table(weights, pair, examples):
    """Rows that say which key tokens each query token attends to most.

    Args:
        weights: Array `(B, H, T, S)`; heads are averaged.
        pair: Query tokens and key tokens, a list of strings for each example. Shorter
            ones than `T` and `S` leave out the padding behind them.
        examples: How many examples to show.

    Returns:
        Rows of Markdown cells, the header first.
    """
    queries, keys = pair
    longest = [max(map(len, side)) for side in pair]
    if longest[0] > weights.shape[2] or longest[1] > weights.shape[3]:
        raise ValueError(
            f"{longest[0]} query and {longest[1]} key tokens do not fit weights of "
            f"{weights.shape[2]} queries and {weights.shape[3]} keys"
        )
    rows = [_HEADER]
    for example in range(min(examples, len(weights))):
        mean = weights[example].mean(0)  # (T, S)
        names = keys[example]
        best = np.argsort(-mean[:, : len(names)], axis=1, kind="stable")[:, :_SHOWN]
        for index, query in enumerate(queries[example]):
            cells = [
                f"{escape_markdown(names[key])} ({mean[index, key]:.2f})"
                for key in best[index]
                if mean[index, key] > 0
            ]
            cells += [""] * (_SHOWN - len(cells))
            rows.append((str(example), escape_markdown(query), *cells))
    return rows
