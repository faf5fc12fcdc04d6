"""Selective attention: which parts of an input matter at all?"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import TypeVar, cast

import keras
from keras import ops

from keras_sam import _initializers, normalizers, scores
from keras_sam import _validation as check
from keras_sam.attention.column_sums import column_sums
from keras_sam.attention.positions import smaller
from keras_sam.backend.precision import wide
from keras_sam.layers._composite import CompositeLayer, own_score
from keras_sam.layers._masks import keras_mask
from keras_sam.layers._parts import Parts
from keras_sam.layers._projection import Projection
from keras_sam.layers._top_k import count_of, gather_kept, keep, top_k_mask
from keras_sam.normalizers.masking import attention_weights
from keras_sam.recording import AttentionDetails, record

Init = TypeVar("Init", bound=Callable)
RELATIONS = ("context", "self", "query")


def _num_heads_first(init: Init) -> Init:
    """Warns of arguments without names: the first one was `units` until 0.2.0."""

    @functools.wraps(init)
    def checked(self, *args, **kwargs):
        if args:
            names = ("num_heads", "units")[: len(args)]
            received = [f"{n}={v!r}" for n, v in zip(names, args, strict=False)]
            warnings.warn(
                "The first argument of SelectiveAttention is `num_heads`, as in "
                "SelfAttention. It was `units` before keras_sam 0.2.0, and `num_heads` "
                "was the second. Give the names of both arguments, and this warning "
                f"ends. Received: {', '.join(received)}",
                FutureWarning,
                stacklevel=2,
            )
        init(self, *args, **kwargs)

    checked.__signature__ = inspect.signature(init)  # Keras reads it, and does not unwrap
    return cast(Init, checked)


@keras.saving.register_keras_serializable(package="keras_sam")
class SelectiveAttention(CompositeLayer):
    """Weighs the parts of an input by their importance, and pools or scales them.

    ```
    a      = mask * normalizer(where(mask, e, very negative))     for each head
    pooled = sum_j a_j x_j                                        pool=True
    y_j    = x_j * n a_j / sum_i a_i                              pool=False
    ```

    This is *importance weighting*: one weight for each part. The *selective masking* of
    `SelfAttention(selective=True)`, by which positions hide others from later ones, is
    another mechanism.

    `n` is the number of parts that may have weight. So `pool=False` leaves parts of equal
    weight unchanged. The importance `e_j` of part `x_j` depends on `relation`:

    ```
    "context"   e_j = u . tanh(W x_j + b)                  a learned context vector u
    "self"      e_j = log sum_i softmax_j(score(W_q x_i, W_k x_j))
    "query"     e_j = score(W_q query, W_k x_j)            relative to a second input
    ```

    With "self", the importance of a part is the weight that it receives from all parts.
    The softmax of its logarithm is that weight, divided by the sum of all. The matrix of
    all pairs is never kept.

    With `top_k`, the k parts of the largest importance keep their weight, divided by
    their sum, and all others have a weight of exactly zero. The gradient is that of the
    weights before the selection (Bengio et al., 2013), so parts that were left out can
    be selected later. Of equal parts the earlier one is selected. Where fewer than k
    parts are unmasked, all of them are selected.

    Args:
        num_heads: Number of heads, each with weights of its own. With `pool=True` their
            results are concatenated, otherwise their weights are averaged.
        units: Width of the hidden layer. None is the width of a part, at least 8.
        relation: `"context"`, `"self"` or `"query"`.
        score: For "self" and "query", a name or a `keras_sam.scores.Score`. None is
            `"scaled_dot"`.
        normalizer: A name, `"softmax"`, `"sigmoid"`, `"hard_sigmoid"`, `"sparsemax"` or
            `"entmax"`, or an instance from `keras_sam.normalizers` or of your own
            registered class.
        top_k: How many parts keep weight: a positive integer, or a share in (0, 1) of
            the unmasked parts, rounded up. None is all.
        pool: Whether the parts are summed up, or stay as they are, each scaled.
        axis: Which axis holds the parts. None is all positions between batch and
            channels; -1 is the channels, such as the columns of a table, each of which
            has kernels of its own; another one makes each slice along it a part. What
            a slice is described by is its mean over its other positions.
        dropout: Share of the weights that are dropped in training, in [0, 1).
        use_bias: Whether the projections have biases.
        kernel_initializer: For the projections.
        seed: Seed of the dropout.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor `(B, T, C)` or, with more positions, `(B, ..., C)`; with `axis=-1`
            also `(B, C)`.
        query: Tensor `(B, Cq)`, for `relation="query"` and no other.
        mask: Boolean in the shape of the positions (or, for inputs `(B, C)`, of the
            features), False for padding; Keras hands over its own masks by itself.
        return_attention_scores: Whether to return the weights as well, as normalized,
            masked and selected, before dropout.
        training: Whether to apply dropout.

    Masking:
        Masked parts have no weight; a row without any other is zero. What is left of the
        mask is passed on: all of it unless the parts are pooled, nothing if all positions
        are, and otherwise whether an output has any position that is not masked.

    Output shape:
        Pooled, that of `inputs` without the parts' axes, and channels `H C`:
        `(B, H C)` for positions, `(B, ..., H)` for `axis=-1`. Otherwise that of
        `inputs`. With `return_attention_scores=True` also the weights `(B, H, T)`.

    Raises:
        ValueError: For an argument out of range, a query that is missing or not asked
            for, and shapes that do not fit.

    Warns:
        FutureWarning: Where `num_heads` is given without its name, because the first
            argument was `units` before 0.2.0.

    Example:

    >>> import keras, keras_sam
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((None,), dtype="int32"),
    ...         keras.layers.Embedding(1000, 32, mask_zero=True),
    ...         keras_sam.SelectiveAttention(num_heads=2),
    ...         keras.layers.Dense(2, activation="softmax"),
    ...     ]
    ... )
    >>> model(keras.ops.ones((3, 7), dtype="int32")).shape
    TensorShape([3, 2])

    Hierarchical attention: words become a vector of their sentence, and sentences one of
    their document. Keras's `TimeDistributed` needs to know the number of sentences.

    >>> words = keras.Input((5, None), dtype="int32")  # zeros fill up both
    >>> x = keras.layers.Embedding(1000, 32, mask_zero=True)(words)
    >>> x = keras.layers.TimeDistributed(keras_sam.SelectiveAttention())(x)
    >>> x.shape, keras_sam.SelectiveAttention()(x).shape
    ((None, 5, 32), (None, 32))

    References:
        - Yang et al., 2016, "Hierarchical Attention Networks for Document
          Classification" (https://aclanthology.org/N16-1174), eqs. 5 to 7, for "context".
        - Bahdanau et al., 2015 (https://arxiv.org/abs/1409.0473), eq. 6, for "query".
        - Bengio et al., 2013 (https://arxiv.org/abs/1308.3432), section 4, for the gradient
          of `top_k`.
    """

    @_num_heads_first
    def __init__(
        self,
        num_heads: int = 1,
        units: int | None = None,
        relation: str = "context",
        score: str | scores.Score | list | None = None,
        normalizer: str | Callable = "softmax",
        top_k: int | float | None = None,
        pool: bool = True,
        axis: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        kernel_initializer: str | Callable = "glorot_uniform",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = check.positive_integer("units", units, optional=True)
        self.num_heads = check.positive_integer("num_heads", num_heads)
        self.relation = check.one_of("relation", relation, RELATIONS)
        if self.relation == "context":
            if score is not None:
                raise check.invalid("score", 'None with relation="context"', score)
            self.score = None
        else:
            score = "scaled_dot" if score is None else score
            self.score = own_score(score, self.dtype_policy)
            if self.score.has_hooks:
                expected = "a score without steps"
                raise check.invalid("score", expected, score)
        self.normalizer = normalizers.get(normalizer)
        self.top_k = _check_top_k(top_k)
        self.pool = check.boolean("pool", pool)
        self.axis = check.integer("axis", axis, optional=True)
        self.dropout = check.rate("dropout", dropout)
        self.use_bias = check.boolean("use_bias", use_bias)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )
        self.seed = check.integer("seed", seed, optional=True)
        if self.dropout > 0:
            self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, inputs_shape, query_shape=None):
        parts = Parts.of(inputs_shape, self.axis, self.name)
        self._check_query(query_shape)
        length, width = parts.length, parts.width
        units = self.units or max(width, 8)
        parts_shape = (inputs_shape[0], length, width)
        self.query_dense = self.context_vector = None
        if self.relation == "context":
            self.parts_dense = self._dense("parts", parts_shape, units, parts, "tanh")
            # Features have context vectors of their own, as they have kernels.
            rows = (length,) if parts.are_features else ()
            self.context_vector = self.add_weight(
                name="context_vector",
                shape=(*rows, self.num_heads, units),
                initializer=_initializers.fresh(self.kernel_initializer, 1),
            )
            return
        self.parts_dense = self._dense("parts", parts_shape, units, parts)
        if self.relation == "self":
            self.query_dense = self._dense("query", parts_shape, units, parts)
        else:
            self.query_dense = self._dense(
                "query", (query_shape[0], 1, query_shape[-1]), units
            )
        if not self.score.built:  # one that was loaded is built already
            rows = length if self.relation == "self" else 1
            heads = (inputs_shape[0], self.num_heads)
            self.score.build((*heads, rows, units), (*heads, length, units))

    def _dense(self, name, shape, units, parts=None, activation=None):
        own = parts is not None and parts.are_features
        kernel = shape[1] if own else 1, shape[-1], self.num_heads, units
        check.weight_shape("`num_heads` and `units`", kernel)
        dense = Projection(
            "btc,tchu->bthu" if own else "btc,chu->bthu",
            output_shape=(shape[1] if own else None, self.num_heads, units),
            bias_axes=("thu" if own else "hu") if self.use_bias else None,
            activation=activation,
            kernel_initializer=_initializers.fresh(
                self.kernel_initializer, 1 if name == "query" else 0
            ),
            name=name,
            dtype=self.sublayer_dtype(name),
        )
        dense.build(shape)
        return dense

    def call(
        self,
        inputs,
        query=None,
        mask=None,
        return_attention_scores=False,
        training=None,
    ):
        self._check_query(None if query is None else query.shape)
        parts = Parts.of(inputs.shape, self.axis, self.name)
        mask = parts.check_mask(keras_mask(inputs, mask, max(len(inputs.shape) - 1, 2)))
        inputs = ops.cast(inputs, self.compute_dtype)  # numbers of a table may be integers
        inputs = parts.without_padding(inputs, mask)
        weights, kept, allowed = self._weights(parts, inputs, query, mask)  # (B, H, T)
        details = AttentionDetails(
            "selective", key_grid=parts.grid, are_features=parts.are_features
        )
        record(self, weights, details, allowed)
        dropped = weights
        if training and self.dropout > 0:
            dropped = keras.random.dropout(weights, self.dropout, seed=self.seed_generator)
        if self.pool:
            outputs = parts.pool(inputs, dropped)
        else:
            outputs = parts.scale(inputs, _mean_one(dropped, weights, kept))
        return (outputs, weights) if return_attention_scores else outputs

    def select(self, inputs, query=None, mask=None):
        """Returns the selected parts only, so that later layers run on fewer.

        For inference, with `top_k`, one head and positions as parts: what is left out
        is dropped, not set to zero. The parts are those that calling the layer with
        `pool=False` gives, in their order.

        Args:
            inputs: Tensor `(B, T, C)`, or with more positions.
            query: As in the call.
            mask: As in the call.

        Returns:
            The parts `(B, k, C)` and their positions `(B, k)`, int32, counted row by row
            where there are several axes of them. Where fewer than k parts are unmasked,
            the last ones are zeros at position -1.
        """
        if self.top_k is None or self.num_heads != 1 or self.axis is not None:
            raise ValueError(
                "`select` needs `top_k`, one head and `axis=None`. Received: "
                f"top_k={self.top_k}, num_heads={self.num_heads}, axis={self.axis}"
            )
        if isinstance(inputs, keras.KerasTensor):
            expected = "a tensor; in a functional model, call `select` in a layer of yours"
            raise check.invalid("inputs", expected, inputs)
        self._check_query(None if query is None else query.shape)
        axes = len(inputs.shape) - 1
        mask = keras_mask(inputs, mask, axes)
        inputs = ops.cast(ops.convert_to_tensor(inputs), self.compute_dtype)
        if not self.built:
            self.build(inputs.shape, None if query is None else query.shape)
        parts = Parts.of(inputs.shape, None, self.name)
        inputs = parts.without_padding(inputs, parts.check_mask(mask))
        weights, kept, _ = self._weights(parts, inputs, query, mask)
        scaled = parts.scale(inputs, _mean_one(weights, weights, kept))
        shape = ops.shape(inputs)
        scaled = ops.reshape(scaled, (shape[0], -1, shape[-1]))
        length = ops.shape(scaled)[1] if parts.length is None else parts.length
        k = smaller(count_of(self.top_k, length), length)
        return gather_kept(scaled, kept[:, 0], k)

    def compute_output_spec(
        self,
        inputs,
        query=None,
        mask=None,
        return_attention_scores=False,
        training=None,
    ):
        self._check_query(None if query is None else query.shape)
        parts = Parts.of(inputs.shape, self.axis, self.name)
        parts.check_mask(keras_mask(inputs, mask, max(len(inputs.shape) - 1, 2)))
        shape = self.compute_output_shape(inputs.shape)
        outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return outputs
        return outputs, keras.KerasTensor(
            (inputs.shape[0], self.num_heads, parts.length), dtype=self.compute_dtype
        )

    def compute_output_shape(self, inputs_shape, query_shape=None):
        parts = Parts.of(inputs_shape, self.axis, self.name)
        return parts.pooled_shape(self.num_heads) if self.pool else tuple(inputs_shape)

    def compute_mask(self, inputs, previous_mask):
        if not self.pool:
            return previous_mask
        parts = Parts.of(inputs.shape, self.axis, self.name)
        return parts.pooled_mask(previous_mask)

    def _weights(self, parts, inputs, query, mask):
        """Returns the weights `(B, H, T)`, which parts have any, and which might.

        The latter two are booleans, or None for all.
        """
        described, mask = parts.describe(inputs, mask)
        if mask is not None:
            mask = ops.expand_dims(mask, 1)  # (B, 1, T)
        scores = self._importance(described, query, mask)
        # As wide as it was normalized: in float16 much would be zero before selection.
        dtype = wide(self.compute_dtype)
        weights = attention_weights(scores, self.normalizer, mask, dtype=dtype)
        if self.top_k is None:
            return ops.cast(weights, self.compute_dtype), mask, mask
        count = ops.shape(scores)[-1]
        if mask is not None:
            count = ops.sum(ops.cast(mask, "int32"), axis=-1, keepdims=True)
        k = count_of(self.top_k, count)
        kept = top_k_mask(ops.stop_gradient(scores), k, mask)
        return keep(weights, kept, self.compute_dtype), kept, mask

    def _importance(self, described, query, mask):
        """The scores of the parts, `(B, H, T)`."""
        keys = ops.swapaxes(self.parts_dense(described), 1, 2)  # (B, H, T, U)
        if self.relation == "context":
            # No einsum: LiteRT (2.3) runs one of a tensor with a batch and one without
            # wrongly, and says nothing.
            dtype = wide(keys.dtype)
            vector = ops.cast(self.context_vector, dtype)  # (H, U), or (T, H, U)
            if len(vector.shape) == 2:
                vector = ops.expand_dims(vector, 0)
            vector = ops.swapaxes(vector, 0, 1)
            scores = ops.sum(ops.cast(keys, dtype) * vector, axis=-1)
            return ops.cast(scores, keys.dtype)
        queries = described if self.relation == "self" else ops.expand_dims(query, 1)
        queries = ops.swapaxes(self.query_dense(queries), 1, 2)
        queries, keys = self.score.project(queries, keys)
        if self.relation == "query":
            return ops.squeeze(self.score(queries, keys, projected=True), axis=2)
        mask = None if mask is None else mask[:, 0]
        received = column_sums(queries, keys, self.score, mask)
        return ops.log(ops.maximum(received, keras.config.epsilon()))

    def _check_query(self, shape):
        """Refuses a query that is missing, not asked for or of another rank."""
        wanted = self.relation == "query"
        if wanted != (shape is not None) or (wanted and len(shape) != 2):
            expected = "a tensor (batch, channels)" if wanted else "None"
            raise ValueError(
                f"`query` must be {expected} with relation={self.relation!r}, in "
                f"SelectiveAttention {self.name!r}. Received: query="
                + ("None" if shape is None else f"a tensor of shape {tuple(shape)}")
            )

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "num_heads": self.num_heads,
            "relation": self.relation,
            "score": None if self.score is None else scores.serialize(self.score),
            "normalizer": normalizers.serialize(self.normalizer),
            "top_k": self.top_k,
            "pool": self.pool,
            "axis": self.axis,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
        }


def _check_top_k(top_k):
    if top_k is None or (check.is_integer(top_k) and top_k > 0):
        return check.positive_integer(
            "top_k", top_k, optional=True, most=check.LARGEST_INT32
        )
    expected = "a positive integer, a share in (0, 1) or None"
    if check.is_integer(top_k) or not 0 < check.number("top_k", top_k, expected) < 1:
        raise check.invalid("top_k", expected, top_k)
    return float(top_k)


def _mean_one(dropped, weights, kept):
    """Factors `(B, T)`: the weights, averaged over heads, of which the mean is one."""
    given, dtype = weights.dtype, wide(weights.dtype)  # float16 counts to 2048
    dropped, weights = ops.cast(dropped, dtype), ops.cast(weights, dtype)
    if kept is None:
        count = ops.cast(ops.shape(weights)[-1], dtype)
    else:
        count = ops.sum(ops.cast(kept, dtype), axis=-1, keepdims=True)
    total = ops.sum(weights, axis=-1, keepdims=True)
    factors = ops.mean(ops.divide_no_nan(count * dropped, total), axis=1)
    return ops.cast(factors, given)
