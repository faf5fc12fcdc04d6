"""What self-attention and cross-attention share: multi-head projections.

Queries, keys and values are projected, attended over and projected back. The weights are
laid out as in `keras.layers.MultiHeadAttention` (and `GroupedQueryAttention`), so that
`layer.set_weights(keras_layer.get_weights())` carries a trained layer over.
"""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sam import _initializers, masks, normalizers, scores
from keras_sam import _validation as check
from keras_sam.attention import attend, budget
from keras_sam.attention.arguments import check_together
from keras_sam.attention.positions import Positions
from keras_sam.attention.recorded import to_record
from keras_sam.layers._axes import Axes, Pairs
from keras_sam.layers._cached import CachedLayer
from keras_sam.layers._composite import own_score
from keras_sam.layers._masks import without_padding
from keras_sam.layers._projection import Projection
from keras_sam.normalizers.masking import both, unmasked
from keras_sam.recording import AttentionDetails, is_recording, keeps_whole, record

PROJECTIONS = ("query", "key", "value", "attention_output", "gate")


class ProjectedAttention(CachedLayer):
    """Base of `SelfAttention` and `CrossAttention`; see there for the arguments."""

    kind = None

    def __init__(
        self,
        num_heads: int,
        key_dim: int | None = None,
        value_dim: int | None = None,
        num_key_value_heads: int | None = None,
        score: str | scores.Score | list = "scaled_dot",
        normalizer: str | Callable = "softmax",
        causal: bool = False,
        sliding_window: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        kernel_initializer: str | Callable = "glorot_uniform",
        kernel_regularizer: str | Callable | None = None,
        block_size: int | str | None = "auto",
        seed: int | None = None,
        *,
        mask: str | masks.Mask | None = None,
        output_shape: int | Sequence[int] | None = None,
        attention_axes: int | Sequence[int] | None = None,
        use_gate: bool = False,
        bias_initializer: str | Callable = "zeros",
        bias_regularizer: str | Callable | None = None,
        activity_regularizer: str | Callable | None = None,
        kernel_constraint: str | Callable | None = None,
        bias_constraint: str | Callable | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_heads = check.positive_integer("num_heads", num_heads)
        self.key_dim = check.positive_integer("key_dim", key_dim, optional=True)
        self.value_dim = check.positive_integer("value_dim", value_dim, optional=True)
        self.num_key_value_heads = check.positive_integer(
            "num_key_value_heads", num_key_value_heads, optional=True
        )
        if self.num_heads % (self.num_key_value_heads or self.num_heads):
            raise check.invalid(
                "num_key_value_heads",
                f"a divisor of `num_heads` ({num_heads}) or None",
                num_key_value_heads,
            )
        self.score = own_score(score, self.dtype_policy)
        self.normalizer = normalizers.get(normalizer)
        check_together(self.score, self.normalizer, selective=False)
        self.mask = masks.get(mask)
        self.causal = check.boolean("causal", causal)
        self.sliding_window = check.window("sliding_window", sliding_window)
        self.dropout = check.rate("dropout", dropout)
        self.use_bias = check.boolean("use_bias", use_bias)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )
        self.kernel_regularizer = check.regularizer(
            "kernel_regularizer", kernel_regularizer
        )
        self.block_size = check.block_size("block_size", block_size)
        self.seed = check.integer("seed", seed, optional=True)
        if self.dropout > 0:
            self.seed_generator = keras.random.SeedGenerator(self.seed)
        # (Keras's summary of a model looks for an attribute `output_shape`.)
        self._output_shape = check.integers("output_shape", output_shape, positive=True)
        self.attention_axes = check.integers("attention_axes", attention_axes)
        self.use_gate = check.boolean("use_gate", use_gate)
        self.bias_initializer = check.initializer("bias_initializer", bias_initializer)
        self.bias_regularizer = check.regularizer("bias_regularizer", bias_regularizer)
        # Of the projections, as in Keras: an attribute `activity_regularizer` would be
        # one of this layer's own output.
        self._activity_regularizer = check.regularizer(
            "activity_regularizer", activity_regularizer
        )
        self.kernel_constraint = check.constraint("kernel_constraint", kernel_constraint)
        self.bias_constraint = check.constraint("bias_constraint", bias_constraint)

    def _build_projections(self, query_shape, key_shape, value_shape):
        """Builds the projections and the score from shapes `(B, T, C)`."""
        width = query_shape[-1]
        if self.key_dim is None and width % self.num_heads:
            raise ValueError(
                "`num_heads` must divide the width of the input when `key_dim` is "
                f"None. Received: num_heads={self.num_heads}, width={width}"
            )
        key_dim = self.key_dim or width // self.num_heads
        value_dim = self.value_dim or key_dim
        key_heads = self.num_key_value_heads or self.num_heads
        self._head_sizes = key_heads, key_dim, value_dim
        self.query_dense = self._dense("query", query_shape, self.num_heads, key_dim)
        self.key_dense = self._dense("key", key_shape, key_heads, key_dim)
        self.gate_dense = None
        if self.use_gate:  # between key and value, where Keras's layers have it
            self.gate_dense = self._dense("gate", query_shape, self.num_heads, value_dim)
        self.value_dense = self._dense("value", value_shape, key_heads, value_dim)
        output_shape = self._channels(query_shape)
        axes = "cefg"[: len(output_shape)]
        kernel = self.num_heads, value_dim, *output_shape
        check.weight_shape("`num_heads`, `value_dim` and `output_shape`", kernel)
        self.output_dense = Projection(
            f"bthd,hd{axes}->bt{axes}",
            output_shape=(None, *output_shape),
            bias_axes=axes if self.use_bias else None,
            **self._dense_options("attention_output"),
        )
        batch, length = query_shape[:2]
        self.output_dense.build((batch, length, self.num_heads, value_dim))
        if not self.score.built:  # one that was loaded is built already
            self.score.build(
                (batch, self.num_heads, length, key_dim),
                (batch, self.num_heads, key_shape[1], key_dim),
            )

    @property
    def is_causal(self):
        """Whether no position sees what comes after it."""
        return Positions.of(self.mask, self.causal, self.sliding_window).reach()[1] == 0

    def _channels(self, query_shape):
        """The sizes that the output has instead of the channels."""
        if self._output_shape is None:
            return (query_shape[-1],)
        given = self._output_shape
        return given if isinstance(given, tuple) else (given,)

    def _dense(self, name, shape, num_heads, width):
        check.weight_shape("`num_heads` and `key_dim`", (shape[-1], num_heads, width))
        activations = {"gate": "sigmoid", "value": self.score.value_activation}
        dense = Projection(
            "btc,chd->bthd",
            output_shape=(None, num_heads, width),
            bias_axes="hd" if self.use_bias else None,
            activation=activations.get(name),
            **self._dense_options(name),
        )
        dense.supports_masking = True  # or Keras warns that the mask ends here
        dense.build(shape)
        return dense

    def _dense_options(self, name):
        nth = PROJECTIONS.index(name)
        return {
            "name": name,
            "dtype": self.sublayer_dtype(name),
            "kernel_initializer": _initializers.fresh(self.kernel_initializer, nth),
            "bias_initializer": _initializers.fresh(self.bias_initializer, nth),
            "kernel_regularizer": self.kernel_regularizer,
            "bias_regularizer": self.bias_regularizer,
            "activity_regularizer": self._activity_regularizer,
            "kernel_constraint": self.kernel_constraint,
            "bias_constraint": self.bias_constraint,
        }

    def _attend(
        self,
        query,
        key,
        value,
        *,
        query_mask,
        key_mask,
        attention_mask,
        attention_bias,
        return_attention_scores,
        training,
        use_causal_mask,
        query_segment_ids=None,
        key_segment_ids=None,
        query_positions=None,
        selective=False,
        memory_loss=0.0,
    ):
        """Projects `(B, ..., C)` tensors, attends, and projects the result back."""
        axes, key_axes = self._axes(query.shape), self._axes(key.shape)
        pairs = Pairs(axes, key_axes, self.num_heads)
        inputs, query = query, axes.flatten(query)
        mask = pairs.flatten(attention_mask, inputs, key)
        mask = None if mask is None else ops.cast(mask, "bool")
        bias = pairs.flatten(attention_bias, inputs, key)
        key, value = (
            query if tensor is inputs else key_axes.flatten(tensor)
            for tensor in (key, value)
        )
        query_mask, key_mask = (
            axes.flatten_mask(query_mask),
            key_axes.flatten_mask(key_mask),
        )
        # What no pair reads may be anything, as padding may.
        rows_read, keys_read = query_mask, key_mask
        for read in (mask, unmasked(bias)):
            if read is not None:
                rows_read = both(rows_read, ops.any(read, axis=(1, 3)))
                keys_read = both(keys_read, ops.any(read, axis=(1, 2)))
        query = without_padding(query, rows_read)
        key, value = (without_padding(x, keys_read) for x in (key, value))
        gate = None if self.gate_dense is None else self.gate_dense(query)
        query = ops.swapaxes(self.query_dense(query), 1, 2)  # (B, H, T, D)
        key = ops.swapaxes(self.key_dense(key), 1, 2)  # (B, key heads, S, D)
        value = ops.swapaxes(self.value_dense(value), 1, 2)  # (B, key heads, S, Dv)
        dropout = self.dropout if training else 0.0
        calls, recording = [], is_recording()
        whole = return_attention_scores or (
            recording and (selective or keeps_whole(*query.shape[:3], key.shape[2]))
        )
        output = attend(
            query,
            key,
            value,
            score=self.score,
            normalizer=self.normalizer,
            mask=mask,
            key_mask=key_mask,
            query_mask=query_mask,
            bias=bias,
            pattern=self.mask,
            query_segment_ids=axes.flatten_mask(query_segment_ids),
            key_segment_ids=key_axes.flatten_mask(key_segment_ids),
            query_positions=query_positions,
            causal=self.causal or bool(use_causal_mask),
            sliding_window=self.sliding_window,
            selective=selective,
            dropout=dropout,
            seed=self.seed_generator if dropout else None,
            block_size=self.block_size,
            return_attention_scores=whole,
            on_call=calls.append if recording or memory_loss else None,
        )
        output, weights = output if whole else (output, None)
        if memory_loss:
            self.add_loss(memory_loss * budget.memory_loss(calls[0]))
        if recording:
            self._record(weights, calls[0], inputs, axes, key_axes)
        output = axes.restore(self._finish(output, gate), inputs)
        if not return_attention_scores:
            return output
        return output, axes.restore_weights(weights, inputs)

    def _record(self, weights, call, inputs, axes, key_axes):
        batch = ops.shape(inputs)[0] if axes.free else None
        weights, allowed = to_record(weights, call, batch)
        details = AttentionDetails(self.kind, axes.grid, key_axes.grid)
        record(self, weights, details, allowed)

    def _axes(self, shape):
        return Axes.of(shape, self.attention_axes, self._where)

    def _output_specs(self, query, key, return_attention_scores, value=None):
        """The symbolic results of a call."""
        shape = (*query.shape[:-1], *self._channels(query.shape))
        outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return outputs
        axes, key_axes = self._axes(query.shape), self._axes(key.shape)
        shape = (query.shape[0], *axes.free_sizes, self.num_heads)
        shape = (*shape, axes.length, key_axes.length)
        return outputs, keras.KerasTensor(shape, dtype=self.compute_dtype)

    def _check_pairs(self, query, key, **tensors):
        """Refuses a mask or bias that does not have the shape of pairs of positions."""
        pairs = Pairs(self._axes(query.shape), self._axes(key.shape), self.num_heads)
        for name, tensor in tensors.items():
            pairs.check(name, tensor, self._where)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "score": scores.serialize(self.score),
            "normalizer": normalizers.serialize(self.normalizer),
            "mask": masks.serialize(self.mask),
            "causal": self.causal,
            "sliding_window": self.sliding_window,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "block_size": self.block_size,
            "seed": self.seed,
            "output_shape": self._output_shape,
            "attention_axes": self.attention_axes,
            "use_gate": self.use_gate,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(
                self._activity_regularizer
            ),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }
