"""Which layers of a model have a cache, told by a look at two calls.

The model is called twice with symbolic tensors, with tokens of two lengths. A layer whose
input grows with the tokens works on them; one whose input does not, such as those of an
encoder, is left as it is.
"""

import contextlib
import dataclasses
import inspect
from typing import Any

import keras
from keras.src import backend

from keras_sam import _validation as check
from keras_sam.decoding.refusals import refuse
from keras_sam.layers._cached import current, running

LENGTHS = 3, 5


@dataclasses.dataclass(frozen=True)
class Remembered:
    """A layer that has a cache.

    Args:
        key: Its path; of the second call of a layer, `path#2`.
        layer: A `SelfAttention`.
        padding: Whether a Keras mask reaches it.
        use_causal_mask: Whether it is causal in this call only.
    """

    key: str
    layer: Any
    padding: bool
    use_causal_mask: bool


class Survey:
    """What a model does with its tokens.

    Args:
        inputs: `ModelInputs`.

    Attributes:
        remembered: A list of `Remembered`, in the order of their calls.
        embeddings: The layers that look integer tokens up.
        counting: The layers that count positions, with an argument `start_index`.
    """

    def __init__(self, inputs):
        few, many = (_look(inputs, length) for length in LENGTHS)
        if len(few) != len(many):
            raise ValueError(
                "`model` must call the same layers whatever the number of tokens is. "
                f"Received: {len(few)} calls for {LENGTHS[0]} tokens, and {len(many)} for "
                f"{LENGTHS[1]}"
            )
        calls = []
        for call, other in zip(few, many, strict=True):
            call.attends_over_tokens = call.attended != other.attended
            call.sees_all_tokens = call.lengths[:1] == LENGTHS[:1]
            if call.lengths != other.lengths:
                calls.append(call)
        self.remembered, self.embeddings, self.counting = [], [], []
        for call in calls:
            refuse(call)
            if call.remembered is not None:
                self.remembered.append(call.remembered)
            if hasattr(call.layer, "input_dim") and call.rank == 2:
                self.embeddings.append(call.layer)
            if counts_positions(call.layer):
                self.counting.append(call.layer)
        if not self.remembered:
            raise ValueError(
                "`model` must have at least one causal keras_sam.SelfAttention over its "
                "tokens; `keras_sam.convert` makes one of Keras's attention. "
                f"Received: model={inputs.model!r}"
            )


@dataclasses.dataclass
class Call:
    """A call of a layer, with tokens of one length.

    Args:
        layer: The layer.
        lengths: The second sizes of all its tensors.
        attended: Those of keys and values.
        rank: The number of axes of its first tensor.
        use_causal_mask: Whether attention is causal in this call only.
        remembered: What is remembered of it, or None.
        attends_over_tokens: Whether `attended` grows with the tokens.
        sees_all_tokens: Whether its first tensor has a position for each token.
    """

    layer: Any
    lengths: tuple
    attended: tuple
    rank: int
    use_causal_mask: bool = False
    remembered: Remembered | None = None
    attends_over_tokens: bool = False
    sees_all_tokens: bool = True


class _Looking:
    """Hears of the calls of attention layers of keras_sam, and gives them no cache."""

    def __init__(self):
        self.keys, self.calls = Keys(), []

    def cache_of(self, layer, has_mask, use_causal_mask):
        key = self.keys.next(layer)
        found = Remembered(key, layer, has_mask, bool(use_causal_mask))
        open_calls = [call for call in self.calls if call.layer is layer]
        open_calls[-1].remembered = found
        open_calls[-1].use_causal_mask = bool(use_causal_mask)

    def positions_of(self, layer, query, value):
        return None

    def shifted(self, layer, names, args, kwargs):
        return kwargs


class Keys:
    """Names the calls of layers: by the path, from the second on with its number."""

    def __init__(self):
        self._counts = {}

    def next(self, layer):
        path = layer.path or layer.name
        self._counts[path] = self._counts.get(path, 0) + 1
        count = self._counts[path]
        return path if count == 1 else f"{path}#{count}"


def _look(inputs, length):
    """Returns the calls of all layers with tokens of one length."""
    looking = _Looking()

    def call(*flat):
        with running(looking), _heard(inputs.model, looking.calls):
            return inputs.call(list(flat))

    backend.compute_output_spec(call, *inputs.symbols(2, length))
    return looking.calls


@contextlib.contextmanager
def _heard(model, calls):
    """Lists the calls of all layers of a model while it is open."""
    layers = model._flatten_layers(include_self=False)
    layers = {id(layer): layer for layer in layers}.values()
    replaced = []
    try:
        for layer in layers:
            had = vars(layer).get("call")
            replaced.append((layer, had))
            object.__setattr__(layer, "call", _listening(layer, layer.call, calls))
        yield
    finally:
        for layer, had in replaced:
            if had is None:
                del vars(layer)["call"]
            else:
                object.__setattr__(layer, "call", had)


def _listening(layer, call, calls):
    signature = inspect.signature(type(layer).call)

    def listening(*args, **kwargs):
        given = dict(signature.bind(layer, *args, **kwargs).arguments)
        tensors = _tensors((args, kwargs))
        attended = _tensors([given.get("value"), given.get("key")])
        if args and isinstance(args[0], list | tuple):  # query, value and perhaps key
            attended += _tensors(args[0][1:])
        lengths = tuple(map(_length, tensors))
        rank = len(tensors[0].shape) if tensors else 0
        calls.append(Call(layer, lengths, tuple(map(_length, attended)), rank))
        return call(*args, **kwargs)

    return listening


def _tensors(nest):
    return [x for x in keras.tree.flatten(nest) if hasattr(x, "shape")]


def _length(tensor):
    return tensor.shape[1] if len(tensor.shape) > 1 else None


def counts_positions(layer):
    """Returns whether the call of a layer takes `start_index`."""
    return "start_index" in inspect.signature(type(layer).call).parameters


def shift_positions(layers):
    """Lets layers begin to count at the first row of a step, while a `Decoder` runs."""
    for layer in layers:
        if not hasattr(vars(layer).get("call"), "shifts"):
            object.__setattr__(layer, "call", _shifting(layer, layer.call))


def _shifting(layer, call):
    names = inspect.signature(type(layer).call).parameters

    def shifting(*args, **kwargs):
        decoding = current()
        if decoding is None:
            return call(*args, **kwargs)
        return call(*args, **decoding.shifted(layer, names, args, kwargs))

    shifting.shifts = True
    return shifting


def budgets_of(remembered, given):
    """Returns the memory budget of each layer by its key, None for no limit.

    Args:
        remembered: The layers that have a cache.
        given: The argument `memory_budget`.
    """
    layers = {found.key: found.layer for found in remembered}
    if isinstance(given, dict):
        unknown = sorted(set(given) - set(layers))
        if unknown:
            expected = f"a dictionary with some of {', '.join(map(repr, layers))}"
            raise check.invalid("memory_budget", expected, given)
        return {key: given.get(key) for key in layers}
    if given is not None and not any(layer.selective for layer in layers.values()):
        expected = "None for a model without a layer that has `selective=True`"
        raise check.invalid("memory_budget", expected, given)
    return {key: given if layer.selective else None for key, layer in layers.items()}
