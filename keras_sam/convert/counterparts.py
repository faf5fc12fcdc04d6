"""The counterpart of each attention layer: of Keras's in keras_sam, and the other way."""

import functools
import inspect

import numpy as np
from keras.layers import AdditiveAttention, Attention, MultiHeadAttention
from keras.layers import GroupQueryAttention as GroupedQueryAttention

from keras_sam import _validation as check
from keras_sam import normalizers, scores
from keras_sam.convert.rebuild import Replacement
from keras_sam.layers import CrossAttention, SelfAttention, UnprojectedAttention

THEIRS = (MultiHeadAttention, GroupedQueryAttention, Attention, AdditiveAttention)
OURS = (SelfAttention, CrossAttention, UnprojectedAttention)

# Arguments that have the same name and meaning in Keras's projected layers and in ours.
SHARED = (
    "name",
    "dropout",
    "use_bias",
    "use_gate",
    "sliding_window",
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "bias_constraint",
    "seed",
)
PROJECTIONS = ("query", "key", "gate", "value", "output")


def bind(layer, args, kwargs):
    """The arguments of a call by their names, without those that are None."""
    bound = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    return {name: value for name, value in bound.items() if value is not None}


def built_shapes(layer):
    """The shapes of query, value and maybe key that a layer was built with."""
    config = layer.get_build_config()
    shapes = config.get("shapes_dict", config)
    names = ("query_shape", "value_shape", "key_shape")
    found = [tuple(shapes[name]) for name in names if shapes.get(name) is not None]
    found = found or [shapes["input_shape"]]
    if hasattr(found[0][0] or found[0][-1], "__len__"):  # one list of all shapes
        found = [tuple(shape) for shape in found[0] if shape is not None]
    return found if len(found) > 1 else [tuple(found[0])] * 2


def _carry(old, new):
    """Brings weights of one order into a built layer, and which are frozen."""
    if old.built:
        pairs = zip(old.get_weights(), new.get_weights(), strict=True)
        new.set_weights([np.array(have).reshape(want.shape) for have, want in pairs])
    new.trainable = old.trainable
    for name in PROJECTIONS:
        mine, yours = (
            getattr(layer, f"_{name}_dense", getattr(layer, f"{name}_dense", None))
            for layer in (old, new)
        )
        if mine is not None and yours is not None and not mine.trainable:
            yours.trainable = False


# From Keras -----------------------------------------------------------------------------


def to_ours(layer, calls):
    """Returns the `Replacement` of a layer of Keras.

    Args:
        layer: A layer of Keras.
        calls: The arguments of all its calls in a model, or None for a layer alone.
    """
    causal = bool(calls) and all(call.get("use_causal_mask") for call in calls)
    options = {"causal": causal, "dtype": layer.dtype_policy}
    if isinstance(layer, Attention):
        return _unprojected(layer, options)
    config = layer.get_config()
    shared = {name: config[name] for name in SHARED if name in config}
    if isinstance(layer, GroupedQueryAttention):
        sizes = {
            "num_heads": config["num_query_heads"],
            "key_dim": config["head_dim"],
            "num_key_value_heads": config["num_key_value_heads"],
        }
    else:
        names = ("num_heads", "key_dim", "value_dim", "output_shape", "attention_axes")
        sizes = {name: config[name] for name in names}
    rank = len(built_shapes(layer)[0]) if layer.built else 3
    if sizes.get("attention_axes") == tuple(range(1, rank - 1)):
        sizes["attention_axes"] = None  # Keras fills in all of them when it builds
    alone = bool(calls) and all(map(_attends_to_itself, calls))
    new = (SelfAttention if alone else CrossAttention)(**shared, **sizes, **options)

    def arguments(args, kwargs):
        call = bind(layer, args, kwargs)
        _check_weights_alike(new, call)
        if causal:
            del call["use_causal_mask"]
        tensors = [call.pop(name) for name in ("query", "value", "key") if name in call]
        return tensors[: 1 if alone else None], call

    return Replacement(new, arguments, functools.partial(_carry, layer, new))


def _attends_to_itself(call):
    query = call["query"]
    same = call["value"] is query and call.get("key", query) is query
    return same and not any(f"{name}_mask" in call for name in ("query", "value", "key"))


def _check_weights_alike(layer, call):
    """Refuses weights over several axes, which have one axis for all in ours."""
    rank = len(call["query"].shape)
    axes = layer.attention_axes
    several = rank > 3 if axes is None else isinstance(axes, tuple) and len(axes) > 1
    if several and call.get("return_attention_scores"):
        raise ValueError(
            "`return_attention_scores` must be False where positions have several axes: "
            "keras_sam returns weights (..., T, S), and Keras the sizes of all axes. "
            f"Received: return_attention_scores=True, in {layer.name!r}"
        )


def _unprojected(layer, options):
    if isinstance(layer, AdditiveAttention):
        vector = "each" if layer.use_scale else None
        score = scores.TanhSum(vector, dtype=layer.dtype_policy)
    elif layer.score_mode == "concat":
        score = scores.TanhSum("one", layer.use_scale, dtype=layer.dtype_policy)
    elif layer.use_scale:
        score = scores.ScaledDot(1.0, learn_scale=True, dtype=layer.dtype_policy)
    else:
        score = scores.Dot(dtype=layer.dtype_policy)
    own = {"name": layer.name, "dropout": layer.dropout, "seed": layer.seed}
    new = UnprojectedAttention(score, **own, **options)

    def arguments(args, kwargs):
        call = bind(layer, args, kwargs)
        if options["causal"]:
            del call["use_causal_mask"]
        masks = dict(zip(("query_mask", "value_mask"), call.pop("mask", ()), strict=False))
        return call.pop("inputs"), {**call, **masks}

    return Replacement(new, arguments, functools.partial(_carry, layer, new))


# To Keras -------------------------------------------------------------------------------


def to_keras(layer, calls):
    """Returns the `Replacement` of a layer of keras_sam; the arguments are as above."""
    _require(layer, "normalizer", layer.normalizer == normalizers.Softmax(), '"softmax"')
    if calls is None:
        reason = "False, because Keras has it in the call: convert the whole model"
        _require(layer, "causal", not layer.causal, reason)
    make = _attention if isinstance(layer, UnprojectedAttention) else _multi_head
    new = make(layer)

    def arguments(args, kwargs):
        call = bind(layer, args, kwargs)
        if "attention_bias" in call:
            raise check.invalid("attention_bias", "None for a layer of Keras", layer.name)
        if layer.causal:
            call["use_causal_mask"] = True
        if isinstance(layer, SelfAttention):
            call["query"] = call["value"] = call.pop("inputs")
            if "mask" in call:
                call["query_mask"] = call["value_mask"] = call.pop("mask")
        tensors = [call.pop(name) for name in ("query", "value", "key") if name in call]
        if not isinstance(layer, UnprojectedAttention):
            _check_weights_alike(layer, {**call, "query": tensors[0]})
            return tensors, call
        if "attention_mask" in call or "key_mask" in call:
            expected = "called with neither `attention_mask` nor `key_mask`"
            raise check.invalid("target", expected, layer.name)
        masks = [call.pop(name, None) for name in ("query_mask", "value_mask")]
        if any(mask is not None for mask in masks):
            call["mask"] = masks
        return [tensors], call

    carry = functools.partial(_carry, layer, new)
    return Replacement(new, arguments, carry, fits_sequential=False)


def _require(layer, name, is_fine, expected):
    """Refuses an argument that no layer of Keras has."""
    if not is_fine:
        raise ValueError(
            f"`{name}` must be {expected}, for a layer of Keras to compute what "
            f"{type(layer).__name__} {layer.name!r} does. "
            f"Received: {name}={layer.get_config()[name]!r}"
        )


def _multi_head(layer):
    key_dim = layer.key_dim
    if key_dim is None and layer.built:
        key_dim = layer.query_dense.kernel.shape[-1]
    _require(layer, "key_dim", key_dim is not None, "given, or the layer built")
    scale = getattr(layer.score, "scale", None)
    fine = type(layer.score) is scores.ScaledDot and not layer.score.learn_scale
    fine = fine and scale in (None, key_dim**-0.5)
    _require(layer, "score", fine, '"scaled_dot"')
    _require(layer, "selective", not getattr(layer, "selective", False), "False")
    config = layer.get_config()
    shared = {name: config[name] for name in SHARED}
    if layer.num_key_value_heads not in (None, layer.num_heads):
        kind = GroupedQueryAttention
        for name in ("output_shape", "attention_axes"):
            _require(layer, name, config[name] is None, "None with shared heads")
        fine = layer.value_dim in (None, key_dim)
        _require(layer, "value_dim", fine, "`key_dim` with shared heads")
        own = {
            "head_dim": key_dim,
            "num_query_heads": layer.num_heads,
            "num_key_value_heads": layer.num_key_value_heads,
        }
    else:
        kind = MultiHeadAttention
        names = ("num_heads", "value_dim", "output_shape", "attention_axes")
        own = {**{name: config[name] for name in names}, "key_dim": key_dim}
    known = inspect.signature(kind).parameters
    for name, plain in (("sliding_window", None), ("use_gate", False)):
        if name not in known:  # in an older Keras
            _require(layer, name, shared.pop(name) == plain, repr(plain))
    return kind(**shared, **own, dtype=layer.dtype_policy)


def _attention(layer):
    score = layer.score
    _require(layer, "sliding_window", layer.sliding_window is None, "None")
    own = {"name": layer.name, "dropout": layer.dropout, "seed": layer.seed}
    own["dtype"] = layer.dtype_policy
    if type(score) is scores.TanhSum and score.vector == "one":
        return Attention(use_scale=score.learn_scale, score_mode="concat", **own)
    if type(score) is scores.TanhSum and not score.learn_scale:
        return AdditiveAttention(use_scale=score.vector == "each", **own)
    learned = type(score) is scores.ScaledDot and score.learn_scale
    fine = learned or type(score) is scores.Dot
    _require(layer, "score", fine, '"dot", a ScaledDot that learns, or a TanhSum')
    return Attention(use_scale=learned, **own)
