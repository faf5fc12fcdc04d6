"""Tokens beside attention: checking them, and finding those of a layer."""

import numpy as np

from keras_sam import _validation as check

_LISTS = "a list with one list of strings for each example"
_EXPECTED = (
    f"{_LISTS}, a dictionary with such lists as 'query' and 'key', or a dictionary of "
    "either by layer path"
)


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


def labels_of(pair, example, length=None):
    """Returns the words of one example: of its queries and of its keys.

    Args:
        pair: From `tokens_for`, or None.
        example: The index of the example.
        length: The numbers of queries and keys, which must not be fewer than the words;
            None for those that have as many as they like.
    """
    if pair is None:
        return None
    labels = tuple(side[example] for side in pair)
    sizes = [len(words) for words in labels]
    if length is not None and any(n > m for n, m in zip(sizes, length, strict=True)):
        raise ValueError(
            f"{sizes[0]} query and {sizes[1]} key tokens do not fit weights of "
            f"{length[0]} queries and {length[1]} keys"
        )
    return labels
