"""Cross-attention: one sequence attends to another."""

import keras

from keras_sam import _validation as check
from keras_sam.layers._cached import current
from keras_sam.layers._cached_cross import CachedCrossAttention
from keras_sam.layers._calls import missing, three_shapes
from keras_sam.layers._masks import keras_mask, pass_on
from keras_sam.layers._multi_head import ProjectedAttention
from keras_sam.layers._query_value import QueryValueAttention


@keras.saving.register_keras_serializable(package="keras_sam")
class CrossAttention(ProjectedAttention, CachedCrossAttention, QueryValueAttention):
    """Multi-head attention of one sequence over another, as a decoder needs.

    ```
    q, k, v = query W_q + b_q, key W_k + b_k, value W_v + b_v     for each head
    weights = mask * normalizer(where(mask, score(q, k) + bias, very negative))
    output  = concat over heads(dropout(weights) v) W_o + b_o
    ```

    With `score="scaled_dot"` and `normalizer="softmax"` this is what
    `keras.layers.MultiHeadAttention` computes, and the weights are laid out the same.

    Args:
        num_heads: Number of heads `H`.
        key_dim: Width of each head's queries and keys. None is the width of the query
            input divided by `num_heads`.
        value_dim, num_key_value_heads, ...: As in `SelfAttention`, whose
            `selective` and `memory_loss` are missing here. `causal` and `sliding_window`
            compare the position of a query with that of a key. With `attention_axes`,
            `query` and `value` have the same sizes in all other axes.

    Call arguments:
        query: Tensor `(B, T, C)`, or with two or three axes of positions, such as `(B,
            height, width, C)`: then `T` is all of them in row-major order.
        value: Tensor `(B, S, Cv)`, likewise; it may have other axes than `query`.
        key: Tensor `(B, S, Ck)`; None is `value`.
        query_mask, value_mask, key_mask: Booleans `(B, T)`, `(B, S)` and `(B, S)` (or the
            shape of the positions), False for padding; Keras hands over the masks of
            `Embedding` or `Masking` layers by itself.
        attention_mask: Boolean `(T, S)`, `(B, T, S)` or `(B, H, T, S)`, True for "may
            attend". Sizes of 1 broadcast. With `attention_axes` the sizes of the other
            axes are behind `B`. Instead of `T` and `S` there may be the sizes of their
            axes.
        attention_bias: Float tensor of the same shapes, added to the scores.
        return_attention_scores: Whether to return the weights as well. They are as
            normalized and masked, before dropout.
        training: Whether to apply dropout.
        use_causal_mask: True is `causal=True` in this call.
        query_segment_ids, value_segment_ids: Integers `(B, T)` and `(B, S)`, for a mask
            with `Segments()`: a row sees the keys of its own segment.
        cache: What `make_cache(value)` returned, to decode step by step without projecting
            `value` in each; `value` and `key` are not looked at.
        cache_update_index: With a cache, the position of the first row of `query`, an
            integer or an integer tensor of shape `()` or `(B,)`. Only needed where the
            mask or the score may look at it.

    Masking:
        As in `SelfAttention`. The mask of `query` is passed on.

    Output shape:
        The shape of `query`, with `output_shape` for its channels if that is given; with
        `return_attention_scores=True` also the weights, `(B, H, T, S)`. With
        `attention_axes` the sizes of the other axes are behind `B`. With `cache` the last
        result is the cache.

    Raises:
        ValueError: For an argument out of range, when the layer is made; for inputs or
            masks whose shapes do not fit, when it is built or called.

    Example:

    >>> import keras, keras_sam
    >>> source = keras.Input((None, 16), name="source")
    >>> target = keras.Input((None, 8), name="target")
    >>> attended, weights = keras_sam.CrossAttention(num_heads=2, key_dim=4)(
    ...     target, source, return_attention_scores=True
    ... )
    >>> attended.shape, weights.shape
    ((None, None, 8), (None, 2, None, None))

    References:
        Vaswani et al., 2017, "Attention Is All You Need"
        (https://arxiv.org/abs/1706.03762), section 3.2.3, "encoder-decoder attention".
    """

    kind = "cross"

    def __call__(self, *args, cache=None, **kwargs):
        alone = len(args) == 1 and not isinstance(args[0], list | tuple)
        if alone and cache is None and kwargs.get("value") is None:
            raise missing(self, "value", "query, value")
        return super().__call__(*args, cache=cache, **kwargs)

    def build(self, query_shape, value_shape=None, key_shape=None):
        given = three_shapes(self, query_shape, value_shape, key_shape)
        shapes = dict(zip(("query", "value", "key"), given, strict=True))
        for name, shape in shapes.items():
            self._check_shape(name, shape)
        self._widths = {name: shape[-1] for name, shape in shapes.items()}
        flat = {name: self._axes(shape).flat_shape for name, shape in shapes.items()}
        self._build_projections(flat["query"], flat["key"], flat["value"])

    def call(
        self,
        query,
        value=None,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        attention_bias=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        query_segment_ids=None,
        value_segment_ids=None,
        cache=None,
        cache_update_index=None,
    ):
        if cache is not None:
            query_mask = keras_mask(query, query_mask, len(query.shape) - 1)
            found = self._attend_to_cache(
                query,
                cache,
                cache_update_index,
                query_mask=query_mask,
                attention_mask=attention_mask,
                attention_bias=attention_bias,
                return_attention_scores=return_attention_scores,
                training=training,
                use_causal_mask=use_causal_mask,
                query_segment_ids=query_segment_ids,
            )
            pass_on(found[0], query_mask)
            return found
        self._check_not_cached(value, cache_update_index)
        return super().call(
            query,
            value,
            key=key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            attention_bias=attention_bias,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
            query_segment_ids=query_segment_ids,
            value_segment_ids=value_segment_ids,
        )

    def compute_output_spec(
        self,
        query,
        value=None,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        attention_bias=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        query_segment_ids=None,
        value_segment_ids=None,
        cache=None,
        cache_update_index=None,
    ):
        if cache is not None:
            self._check_shape("query", query.shape)
            found = self._cached_specs(query, cache, return_attention_scores)
            pass_on(found[0], keras_mask(query, query_mask, len(query.shape) - 1))
            return found
        self._check_not_cached(value, cache_update_index)
        return super().compute_output_spec(
            query,
            value,
            key=key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            attention_bias=attention_bias,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
            query_segment_ids=query_segment_ids,
            value_segment_ids=value_segment_ids,
        )

    def compute_output_shape(self, query_shape, value_shape=None, key_shape=None):
        shapes = three_shapes(self, query_shape, value_shape, key_shape)
        self._check_shapes(*shapes)
        query_shape = shapes[0]
        return (*query_shape[:-1], *self._channels(query_shape))

    def _attend(self, query, key, value, **options):
        decoding = current()
        if decoding is not None:
            positions = decoding.positions_of(self, query, value)
            if positions is not None and self._looks_at_positions:
                options["query_positions"] = positions
        return super()._attend(query, key, value, **options)

    def _check_not_cached(self, value, index):
        if value is None:
            expected = f"a tensor where `cache` is None, in {self._where}"
            raise check.invalid("value", expected, value)
        if index is not None:
            expected = f"None where `cache` is, in {self._where}"
            raise check.invalid("cache_update_index", expected, index)

    def _check_shapes(self, query, value, key):
        self._check_shape("query", query)
        self._check_shape("value", value)
        self._check_shape("key", key)
        if not check.fits(value[:1], query[:1]):
            raise self._unequal("query", query, "value", value, "batch size")
        if not check.fits(key[:-1], value[:-1]):
            raise self._unequal("key", key, "value", value, "batch size and length")
        free, value_free = (self._axes(shape).free_sizes for shape in (query, value))
        if not check.fits(value_free, free):
            expected = "sizes in the axes beside `attention_axes`"
            raise self._unequal("query", query, "value", value, expected)

    def _check_shape(self, name, shape):
        """Refuses what has no positions, or not the width that it was built for."""
        width = self._widths[name] if self.built else None
        known = 3 <= len(shape) <= 5 and shape[-1] is not None
        if known and shape[-1] == (width or shape[-1]):
            return
        channels = f"{width} channels" if width else "known channels"
        raise ValueError(
            f"`{name}` must have the shape (batch, length, channels) with {channels}, or "
            f"two or three axes instead of the length, in {self._where}. "
            f"Received: {name}.shape={tuple(shape)}"
        )

    def _unequal(self, name, shape, other_name, other, what):
        return ValueError(
            f"`{name}` and `{other_name}` must have the same {what}, in CrossAttention "
            f"{self.name!r}. Received: {name}.shape={tuple(shape)}, "
            f"{other_name}.shape={tuple(other)}"
        )
