"""Attention without projections."""

from collections.abc import Callable

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam import masks, normalizers, scores
from keras_sam.attention import attend
from keras_sam.attention.arguments import check_together
from keras_sam.attention.recorded import to_record
from keras_sam.layers._axes import Axes, Pairs
from keras_sam.layers._calls import three_shapes
from keras_sam.layers._composite import own_score
from keras_sam.layers._query_value import QueryValueAttention
from keras_sam.recording import AttentionDetails, is_recording, keeps_whole, record


@keras.saving.register_keras_serializable(package="keras_sam")
class UnprojectedAttention(QueryValueAttention):
    """Attention of queries over keys and values as they are: one head, no projections.

    ```
    weights = mask * normalizer(where(mask, score(query, key) + bias, very negative))
    output  = dropout(weights) value
    ```

    This is `keras.layers.Attention`, and with `score=keras_sam.scores.TanhSum()`
    `keras.layers.AdditiveAttention`, with any score and any normalizer. The only weights
    are those of the score. It is called with tensors one by one, as `CrossAttention` is.

    Args:
        score: A name or a `keras_sam.scores.Score`; see `SelfAttention`.
        normalizer: A name or an instance; see `SelfAttention`.
        causal: Whether a position attends to itself and those before it only.
        sliding_window: Attend only to positions less than this many away; None is
            no limit.
        dropout: Share of the weights that are dropped in training, in [0, 1).
        block_size: See `SelfAttention`.
        seed: Seed of the dropout.
        mask: A `keras_sam.masks.Mask`, or None; see `SelfAttention`.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        query: Tensor `(B, ..., T, D)`; each index of the axes between `B` and `T` is an
            example of its own.
        value: Tensor `(B, ..., S, Dv)`.
        key: Tensor `(B, ..., S, D)`; None is `value`.
        query_mask, value_mask, key_mask: Booleans of these shapes without channels, False
            for padding; Keras hands over the masks of `Embedding` or `Masking` layers by
            itself.
        attention_mask: Boolean `(T, S)` or `(B, ..., T, S)`, True for "may attend". Sizes
            of 1 broadcast.
        attention_bias: Float tensor of the same shapes, added to the scores.
        return_attention_scores: Whether to return the weights as well. They are as
            normalized and masked, before dropout.
        training: Whether to apply dropout.
        use_causal_mask: True is `causal=True` in this call.
        query_segment_ids, value_segment_ids: Integers `(B, ..., T)` and `(B, ..., S)`, for
            a mask with `Segments()`: a row sees the keys of its own segment.

    Masking:
        As in `SelfAttention`: a row of padding, and one with nothing to attend to, is
        zero. The mask of `query` is passed on.

    Output shape:
        `(B, ..., T, Dv)`; with `return_attention_scores=True` also the weights,
        `(B, ..., T, S)`.

    Raises:
        ValueError: For an argument out of range, when the layer is made; for inputs or
            masks whose shapes do not fit, when it is built or called.

    Example:

    >>> import keras, keras_sam
    >>> query, value = keras.ops.ones((2, 3, 8)), keras.ops.ones((2, 5, 8))
    >>> keras_sam.layers.UnprojectedAttention(score="scaled_dot")(query, value).shape
    TensorShape([2, 3, 8])

    Reference:
        Luong et al., 2015, "Effective Approaches to Attention-based Neural Machine
        Translation" (https://arxiv.org/abs/1508.04025), eqs. 7 and 8.
    """

    def __init__(
        self,
        score: str | scores.Score | list = "dot",
        normalizer: str | Callable = "softmax",
        causal: bool = False,
        sliding_window: int | None = None,
        dropout: float = 0.0,
        block_size: int | str | None = "auto",
        seed: int | None = None,
        *,
        mask: str | masks.Mask | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.mask = masks.get(mask)
        self.supports_masking = True
        self.score = own_score(score, self.dtype_policy)
        self.normalizer = normalizers.get(normalizer)
        check_together(self.score, self.normalizer, selective=False)
        if self.score.value_activation is not None:
            raise check.invalid(
                "score", "one without `ValueNorm`, for values as given", score
            )
        self.causal = check.boolean("causal", causal)
        self.sliding_window = check.window("sliding_window", sliding_window)
        self.dropout = check.rate("dropout", dropout)
        self.block_size = check.block_size("block_size", block_size)
        self.seed = check.integer("seed", seed, optional=True)
        if self.dropout > 0:
            self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, query_shape, value_shape=None, key_shape=None):
        shapes = three_shapes(self, query_shape, value_shape, key_shape)
        self._check_shapes(*shapes)
        if not self.score.built:  # one that was loaded is built already
            flat = (self._axes(shape).flat_shape for shape in (shapes[0], shapes[2]))
            self.score.build(*((batch, 1, length, d) for batch, length, d in flat))

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
        query_segment_ids,
        key_segment_ids,
    ):
        # Columns of a table may be integers.
        query, key, value = (ops.cast(x, self.compute_dtype) for x in (query, key, value))
        axes, key_axes = self._axes(query.shape), self._axes(key.shape)
        pairs = Pairs(axes, key_axes, 1)
        dropout = self.dropout if training else 0.0
        calls, recording = [], is_recording()
        shape = *axes.flat_shape[:2], key_axes.length
        whole = return_attention_scores or (recording and keeps_whole(*shape))
        output = attend(
            axes.flatten(query)[:, None],
            key_axes.flatten(key)[:, None],
            key_axes.flatten(value)[:, None],
            score=self.score,
            normalizer=self.normalizer,
            mask=pairs.flatten(_with_head(attention_mask), query, key),
            key_mask=key_axes.flatten_mask(key_mask),
            query_mask=axes.flatten_mask(query_mask),
            bias=pairs.flatten(_with_head(attention_bias), query, key),
            pattern=self.mask,
            query_segment_ids=axes.flatten_mask(query_segment_ids),
            key_segment_ids=key_axes.flatten_mask(key_segment_ids),
            causal=self.causal or bool(use_causal_mask),
            sliding_window=self.sliding_window,
            dropout=dropout,
            seed=self.seed_generator if dropout else None,
            block_size=self.block_size,
            return_attention_scores=whole,
            on_call=calls.append if recording else None,
        )
        output, weights = output if whole else (output, None)
        if recording:
            batch = ops.shape(query)[0] if axes.free else None
            recorded, allowed = to_record(weights, calls[0], batch)
            record(self, recorded, AttentionDetails("cross"), allowed)
        output = axes.restore(output[:, 0], query)
        if not return_attention_scores:
            return output
        return output, ops.squeeze(axes.restore_weights(weights, query), -3)

    def _output_specs(self, query, key, return_attention_scores, value):
        shape = (*query.shape[:-1], value.shape[-1])
        outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return outputs
        shape = (*query.shape[:-1], value.shape[-2])
        return outputs, keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_output_shape(self, query_shape, value_shape=None, key_shape=None):
        shapes = three_shapes(self, query_shape, value_shape, key_shape)
        self._check_shapes(*shapes)
        return (*shapes[0][:-1], shapes[1][-1])

    def _axes(self, shape):
        return Axes.of(shape, -2, f"UnprojectedAttention {self.name!r}")

    def _check_shapes(self, query, value, key):
        """Refuses shapes that do not belong together."""
        query, value, key = map(tuple, (query, value, key))
        rank = len(query)
        if (
            rank < 3
            or query[-1] is None
            or value[-1:] in ((), (None,))
            or not check.fits((*value[:-2], *key[-1:]), (*query[:-2], query[-1]))
            or not check.fits(key[:-1], value[:-1])
        ):
            raise ValueError(
                "`query`, `value` and `key` must have the shapes (batch, ..., T, D), "
                "(batch, ..., S, Dv) and (batch, ..., S, D), with known channels, in "
                f"UnprojectedAttention {self.name!r}. Received: query.shape={query}, "
                f"value.shape={value}, key.shape={key}"
            )

    def _check_pairs(self, query, value, **pairs):
        """Refuses a mask or bias that does not have the shape of pairs of positions."""
        where = f"UnprojectedAttention {self.name!r}"
        expected = (*query.shape[:-1], value.shape[-2])
        for name, tensor in pairs.items():
            shape = None if tensor is None else tuple(ops.shape(tensor))
            wanted = expected if shape is None or len(shape) > 2 else expected[-2:]
            if shape is not None and not check.fits(shape, wanted, broadcast=True):
                raise ValueError(
                    f"`{name}` must have the shape {expected[-2:]} or {expected}, where a "
                    f"size may be 1, in {where}. Received: {name}.shape={shape}"
                )

    def get_config(self):
        return {
            **super().get_config(),
            "score": scores.serialize(self.score),
            "normalizer": normalizers.serialize(self.normalizer),
            "mask": masks.serialize(self.mask),
            "causal": self.causal,
            "sliding_window": self.sliding_window,
            "dropout": self.dropout,
            "block_size": self.block_size,
            "seed": self.seed,
        }


def _with_head(tensor):
    """Gives pairs of every example an axis for the one head."""
    if tensor is None or len(ops.shape(tensor)) == 2:
        return tensor
    return ops.expand_dims(ops.convert_to_tensor(tensor), -3)
