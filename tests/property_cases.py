"""Calls of every layer as hypothesis draws them, for test_properties.py."""

import dataclasses
import functools
import inspect
from collections.abc import Callable

import layer_oracles
import numpy as np
from common import BACKEND, NORMALIZERS, SCORES, numpy, random, randomize
from hypothesis import strategies as st
from keras import ops

from keras_sam import masks, scores
from keras_sam.layers import (
    CBAM,
    ChannelAttention,
    CrossAttention,
    PointwiseSpatialAttention,
    SelectiveAttention,
    SelfAttention,
    SpatialAttention,
    SpatialGate,
    UnprojectedAttention,
)

DTYPES = ("float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
if BACKEND == "jax":  # it has no float64 unless it is told to
    DTYPES = tuple(name for name in DTYPES if name != "float64")


def sinks():
    return ["scaled_dot", scores.Sinks()]


STEPS = (
    lambda: [scores.QKNorm(), "scaled_dot", scores.SoftCap(5.0)],
    lambda: [scores.Rotary(), "dot"],
    lambda: ["scaled_dot", scores.ALiBi()],
    lambda: ["additive", scores.T5Bias(4, 8)],
    sinks,
    lambda: scores.TanhSum(),
    lambda: scores.ScaledDot(learn_scale=True),
)
GRIDS = st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple)
PATTERNS = st.sampled_from(
    [
        None,
        masks.Window(2),
        masks.Prefix(2),
        masks.Dilated(2),
        masks.Causal() & (masks.Window(2) | masks.Global(1)),
        ~masks.Window(2),
    ]
)


@dataclasses.dataclass
class Call:
    """A layer with random weights, and the arrays of one call.

    Args:
        make: A function that makes the layer.
        inputs: Its inputs, channels last unless `channels_first`.
        masks: Its padding masks by the name of their argument.
        padded: For each input its mask, or None.
        pairs: Other arguments, by name: masks and biases over pairs of positions.
        compute: A function of the layer, `convert` and the inputs: what is expected.
        ordered: Whether positions have an order: a mask, a kernel of several taps.
        channels_first: Whether the layer is called with channels first.
    """

    make: Callable
    inputs: list
    masks: dict
    padded: list
    compute: Callable
    pairs: dict = dataclasses.field(default_factory=dict)
    ordered: bool = True
    channels_first: bool = False

    @functools.cached_property
    def layer(self):
        """Made late: strategies may not draw from Python's own generator, as Keras does."""
        layer = self.make()
        layer.build(*(x.shape for x in self.tensors(*self.inputs)))
        return randomize(layer)

    def __repr__(self):
        name, hidden = type(self.layer).__name__, {"name", "dtype", "trainable", "seed"}
        known = set(inspect.signature(type(self.layer).__init__).parameters) - hidden
        config = {k: v for k, v in vars(self.layer).items() if k in known}
        shapes = [x.shape for x in self.inputs]
        return f"{name} {self.dtype} {config} {shapes} {list(self.arguments)}"

    @property
    def dtype(self):
        return self.layer.compute_dtype

    @property
    def arguments(self):
        return {**self.masks, **self.pairs}

    def tensors(self, *inputs):
        if self.channels_first:
            inputs = [np.moveaxis(x, -1, 1) for x in inputs]
        return inputs

    def run(self, *inputs, **changed):
        """Returns the output, and the weights if there are any, as NumPy arrays."""
        arguments = {**self.arguments, **changed}
        if not isinstance(self.layer, SpatialGate):
            arguments["return_attention_scores"] = True
        found = self.layer(*self.tensors(*(inputs or self.inputs)), **arguments)
        output, weights = found if isinstance(found, tuple) else (found, ())
        if isinstance(weights, dict):  # of CBAM
            weights = tuple(weights[name] for name in ("channel", "spatial"))
        elif not isinstance(weights, tuple):
            weights = (weights,)
        output = numpy(output)
        if self.channels_first:
            output = np.moveaxis(output, 1, -1)
            if isinstance(self.layer, ChannelAttention):
                weights = (ops.moveaxis(weights[0], 1, -1),)
            if isinstance(self.layer, CBAM):
                weights = (ops.moveaxis(weights[0], 1, -1), weights[1])
        return [output, *map(numpy, weights)]

    def expected(self):
        """Returns for each result of `run` what is expected and the error allowed."""
        results = layer_oracles.expected(
            lambda convert: self.compute(self.layer, convert, *self.inputs), self.dtype
        )
        return results


BOOLEANS = st.booleans()
SEEDS = st.integers(0, 2**16)


def some(draw, shape, share=0.6):
    """A mask with about `share` of its entries; now and then a whole row is False."""
    return np.random.default_rng(draw(SEEDS)).random(shape) < share


def flat(array, axes):
    """Joins the `axes` axes behind the batch into one."""
    return array.reshape(len(array), -1, *array.shape[1 + axes :])


@st.composite
def attention(
    draw, dtypes=DTYPES, causal=BOOLEANS, ordered=True, kinds=SCORES, grids=GRIDS
):
    """Self-attention, cross-attention and attention without projections.

    Args:
        draw: Of hypothesis.
        dtypes: What to draw dtypes from.
        causal: A strategy.
        ordered: Whether masks may tell positions apart.
        kinds: What to draw scores from: names, or functions that make one.
    """
    layer = draw(st.sampled_from([SelfAttention, CrossAttention, UnprojectedAttention]))
    batch, width = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    causal = ordered and draw(causal)
    grid = draw(grids)
    if layer is UnprojectedAttention:
        grid = grid[:1]
    key_grid = grid if layer is SelfAttention else (draw(st.integers(1, 7)),)
    score = draw(st.sampled_from(kinds))
    even = 1 + callable(score)  # rotations need even widths
    width *= even
    options = {
        "normalizer": draw(st.sampled_from(list(NORMALIZERS))),
        "causal": causal,
        "sliding_window": draw(st.none() | st.integers(1, 4)) if ordered else None,
        "mask": draw(PATTERNS) if ordered else None,
        "block_size": draw(st.sampled_from(["auto", None, 1, 2, 3])),
        "dtype": draw(st.sampled_from(dtypes)),
    }
    if score is sinks:  # which take a part of what all weights sum up to
        options["normalizer"] = "softmax"
    if causal:  # a pattern may look back only
        options["mask"] = None
    heads = 1
    if layer is not UnprojectedAttention:
        heads = draw(st.integers(1, 4))
        options |= {
            "num_heads": heads,
            "key_dim": even * draw(st.integers(1, 3)),
            "value_dim": draw(st.integers(1, 4)),
            "num_key_value_heads": draw(
                st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])
            ),
            "use_bias": draw(st.booleans()),
        }
    if layer is SelfAttention and causal and score in SCORES:
        options["selective"] = draw(st.booleans())
    seed = draw(SEEDS)
    inputs = [random(batch, *grid, width, seed=seed)]
    names = ["mask"]
    if layer is not SelfAttention:
        widths = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        if layer is UnprojectedAttention:
            widths = widths[0], width
        inputs += [random(batch, *key_grid, w, seed=seed + w) for w in widths]
        names = ["query_mask", "value_mask", "key_mask"]
    padding = {
        name: some(draw, x.shape[:-1])
        for name, x in zip(names, inputs, strict=True)
        if draw(st.booleans())
    }
    keys = [padding[n] for n in ("value_mask", "key_mask") if n in padding]
    keys = np.logical_and.reduce(keys) if keys else None
    padded = [padding.get(names[0])] + [keys] * (len(inputs) - 1)
    lengths = int(np.prod(grid)), int(np.prod(key_grid))
    pairs, shape = {}, (batch, heads, *lengths)
    if layer is UnprojectedAttention:
        shape = batch, *lengths
    if ordered and draw(st.booleans()):
        pairs["attention_mask"] = some(draw, shape, 0.7)
    if ordered and draw(st.booleans()):
        pairs["attention_bias"] = random(*shape, seed=draw(SEEDS))

    def make():
        return layer(score=score() if callable(score) else score, **options)

    def compute(one, convert, *inputs):
        query, value, key = (inputs * 3)[:3] if len(inputs) == 1 else inputs
        query, value, key = (flat(x, x.ndim - 2) for x in (query, value, key))
        allowed = np.ones((batch, heads, *lengths), bool)
        of_keys = padded[0] if layer is SelfAttention else keys
        if padded[0] is not None:
            allowed &= padded[0].reshape(batch, 1, -1, 1)
        if of_keys is not None:
            allowed &= of_keys.reshape(batch, 1, 1, -1)
        if "attention_mask" in pairs:
            allowed &= pairs["attention_mask"].reshape(allowed.shape)
        bias = pairs.get("attention_bias", np.zeros(1, "float32"))
        bias = convert(bias if bias.ndim == 1 else bias.reshape(allowed.shape))
        # The first position that is no padding is never selected.
        first = [0] * batch
        if padded[0] is not None:
            first = padded[0].reshape(batch, -1).argmax(axis=1)
        output, weights = layer_oracles.attention(
            one, convert, query, key, value, allowed, bias, first
        )
        output = output.reshape(batch, *grid, -1)
        return output, weights[:, 0] if layer is UnprojectedAttention else weights

    ordered = causal or options["sliding_window"] or options["mask"] or pairs
    return Call(make, inputs, padding, padded, compute, pairs, ordered=bool(ordered))


@st.composite
def selection(draw, dtypes=DTYPES, grids=GRIDS):
    """Selective attention over positions."""
    batch, width, grid = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(grids)
    relation = draw(st.sampled_from(["context", "self", "query"]))
    make = functools.partial(
        SelectiveAttention,
        num_heads=draw(st.integers(1, 3)),
        units=draw(st.integers(1, 5)),
        relation=relation,
        score=None if relation == "context" else draw(st.sampled_from(SCORES)),
        normalizer=draw(st.sampled_from(list(NORMALIZERS))),
        pool=draw(st.booleans()),
        dtype=draw(st.sampled_from(dtypes)),
    )
    seed = draw(SEEDS)
    inputs = [random(batch, *grid, width, seed=seed)]
    padding = {"mask": some(draw, (batch, *grid))} if draw(st.booleans()) else {}
    mask = padding.get("mask")
    if relation == "query":
        inputs.append(random(batch, draw(st.integers(1, 4)), seed=seed + 1))

    def compute(layer, convert, x, query=None):
        of_parts = None if mask is None else flat(mask, len(grid))
        output, weights = layer_oracles.selection(
            layer, convert, flat(x, len(grid)), query, of_parts
        )
        return output if layer.pool else output.reshape(x.shape), weights

    padded = [mask, None][: len(inputs)]
    return Call(make, inputs, padding, padded, compute, ordered=False)


@st.composite
def gates(draw, dtypes=DTYPES):
    """Spatial and channel attention, both of them, and the gate that multiplies."""
    batch, width = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    grid = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    layer = draw(
        st.sampled_from(
            [
                SpatialAttention,
                PointwiseSpatialAttention,
                ChannelAttention,
                CBAM,
                SpatialGate,
            ]
        )
    )
    format_ = draw(st.sampled_from(["channels_last", "channels_first"]))
    kernel = {
        "kernel_size": draw(st.integers(1, 4)),
        "data_format": format_,
    }
    pooled = {
        "pooling": draw(st.sampled_from(["max", "mean", ("max", "mean"), ("mean", "max")])),
        "normalizer": draw(st.sampled_from(list(NORMALIZERS))),
    }
    kind = {"use_bias": draw(st.booleans()), "dilation_rate": draw(st.integers(1, 2))}
    inner = {"reduction": draw(st.integers(1, min(3, width))), "use_bias": kind["use_bias"]}
    order = draw(
        st.sampled_from([("channel", "spatial"), ("spatial", "channel"), "parallel"])
    )
    options = {
        SpatialAttention: kernel | pooled | kind,
        PointwiseSpatialAttention: kernel | kind,
        ChannelAttention: pooled | inner | {"data_format": format_},
        CBAM: kernel | pooled | inner | {"order": order},
        SpatialGate: {"broadcast": draw(st.booleans())},
    }[layer]
    make = functools.partial(layer, **options, dtype=draw(st.sampled_from(dtypes)))
    seed = draw(SEEDS)
    inputs = [random(batch, *grid, width, seed=seed)]
    name, oracle = (
        "mask",
        {
            SpatialAttention: layer_oracles.spatial,
            PointwiseSpatialAttention: layer_oracles.pointwise,
            ChannelAttention: layer_oracles.channels,
            CBAM: layer_oracles.cbam,
        }.get(layer),
    )
    if layer is SpatialGate:
        name, format_ = "features_mask", "channels_last"
        channels = 1 if options["broadcast"] else width
        inputs.append(random(batch, *grid, channels, seed=seed + 1))
    padding = {name: some(draw, (batch, *grid))} if draw(st.booleans()) else {}
    mask = padding.get(name)

    def compute(one, convert, x, gate=None):
        if gate is not None:
            kept = 1 if mask is None else mask[..., None]
            return (convert(x) * convert(gate) * kept,)
        return oracle(one, convert, x, mask)

    return Call(
        make,
        inputs,
        padding,
        [mask, mask][: len(inputs)],
        compute,
        ordered=layer in (SpatialAttention, CBAM, PointwiseSpatialAttention)
        and kernel["kernel_size"] > 1,
        channels_first=format_ == "channels_first",
    )


FAMILIES = {"attention": attention, "selection": selection, "gates": gates}
