"""What self-attention and cross-attention share: multi-head projections.

Queries, keys and values are projected, attended over and projected back. The weights are
laid out as in `keras.layers.MultiHeadAttention` (and `GroupedQueryAttention`), so that
`layer.set_weights(keras_layer.get_weights())` carries a trained layer over.
"""

import keras
import numpy as np
from keras import ops

from keras_sam import _initializers, normalizers, scores
from keras_sam import _validation as check
from keras_sam.attention import attend
from keras_sam.layers._composite import CompositeLayer, own_score
from keras_sam.layers._masks import without_padding
from keras_sam.normalizers.masking import both, unmasked
from keras_sam.recording import is_recording, record

PROJECTIONS = ("query", "key", "value", "attention_output")


class ProjectedAttention(CompositeLayer):
    """Base of `SelfAttention` and `CrossAttention`; see there for the arguments."""

    def __init__(
        self,
        num_heads,
        key_dim=None,
        value_dim=None,
        num_key_value_heads=None,
        score="scaled_dot",
        normalizer="softmax",
        causal=False,
        sliding_window=None,
        dropout=0.0,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        block_size="auto",
        seed=None,
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
        self.causal = check.boolean("causal", causal)
        self.sliding_window = check.positive_integer(
            "sliding_window", sliding_window, optional=True
        )
        self.dropout = check.rate("dropout", dropout)
        self.use_bias = check.boolean("use_bias", use_bias)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )
        self.kernel_regularizer = check.regularizer(
            "kernel_regularizer", kernel_regularizer
        )
        if block_size != "auto" and block_size is not None:
            expected = 'a positive integer, "auto" or None'
            if not check.is_integer(block_size) or block_size < 1:
                raise check.invalid("block_size", expected, block_size)
            block_size = int(block_size)
        self.block_size = block_size
        self.seed = check.integer("seed", seed, optional=True)
        if self.dropout > 0:
            self.seed_generator = keras.random.SeedGenerator(self.seed)

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
        self.query_dense = self._dense("query", query_shape, self.num_heads, key_dim)
        self.key_dense = self._dense("key", key_shape, key_heads, key_dim)
        self.value_dense = self._dense("value", value_shape, key_heads, value_dim)
        self.output_dense = keras.layers.EinsumDense(
            "bthd,hdc->btc",
            output_shape=(None, width),
            bias_axes="c" if self.use_bias else None,
            **self._dense_options("attention_output"),
        )
        batch, length = query_shape[:2]
        self.output_dense.build((batch, length, self.num_heads, value_dim))
        if not self.score.built:  # one that was loaded is built already
            self.score.build(
                (batch, self.num_heads, length, key_dim),
                (batch, self.num_heads, key_shape[1], key_dim),
            )

    def _dense(self, name, shape, num_heads, width):
        dense = keras.layers.EinsumDense(
            "btc,chd->bthd",
            output_shape=(None, num_heads, width),
            bias_axes="hd" if self.use_bias else None,
            **self._dense_options(name),
        )
        dense.supports_masking = True  # or Keras warns that the mask ends here
        dense.build(shape)
        return dense

    def _dense_options(self, name):
        return {
            "name": name,
            "dtype": self.sublayer_dtype(name),
            "kernel_initializer": _initializers.fresh(
                self.kernel_initializer, PROJECTIONS.index(name)
            ),
            "kernel_regularizer": self.kernel_regularizer,
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
        details,
        selective=False,
    ):
        """Projects `(B, T, C)` tensors, attends, and projects the result back."""
        mask, bias = _with_heads(attention_mask, "bool"), _with_heads(attention_bias)
        # What no pair reads may be anything, as padding may.
        rows_read, keys_read = query_mask, key_mask
        for pairs in (mask, unmasked(bias)):
            if pairs is not None:
                rows_read = both(rows_read, ops.any(pairs, axis=(1, 3)))
                keys_read = both(keys_read, ops.any(pairs, axis=(1, 2)))
        query = without_padding(query, rows_read)
        key, value = (without_padding(x, keys_read) for x in (key, value))
        query = ops.swapaxes(self.query_dense(query), 1, 2)  # (B, H, T, D)
        key = ops.swapaxes(self.key_dense(key), 1, 2)  # (B, key heads, S, D)
        value = ops.swapaxes(self.value_dense(value), 1, 2)  # (B, key heads, S, Dv)
        dropout = self.dropout if training else 0.0
        with_weights = return_attention_scores or is_recording()
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
            causal=self.causal,
            sliding_window=self.sliding_window,
            selective=selective,
            dropout=dropout,
            seed=self.seed_generator if dropout else None,
            block_size=self.block_size,
            return_attention_scores=with_weights,
        )
        if with_weights:
            output, weights = output
            record(self, weights, details)
        output = self.output_dense(ops.swapaxes(output, 1, 2))
        return (output, weights) if return_attention_scores else output

    def _check_mask(self, name, mask, tensor):
        """Refuses a padding mask that is not `tensor` without its channels."""
        if mask is None or check.fits(mask.shape, tensor.shape[:-1]):
            return
        raise ValueError(
            f"`{name}` must have the shape {tuple(tensor.shape[:-1])}, in "
            f"{self.__class__.__name__} {self.name!r}. "
            f"Received: {name}.shape={tuple(mask.shape)}"
        )

    def _check_pairs(self, name, tensor, batch, rows, keys):
        """Refuses a mask or bias that is not `(B, T, S)` or `(B, H, T, S)`."""
        if tensor is None:
            return
        shape = tuple(np.shape(tensor))  # lists have one too
        for expected in ((batch, rows, keys), (batch, self.num_heads, rows, keys)):
            if check.fits(shape, expected, broadcast=True):
                return
        raise ValueError(
            f"`{name}` must have the shape (batch, {rows}, {keys}) or "
            f"(batch, {self.num_heads}, {rows}, {keys}), where a size may be 1, in "
            f"{self.__class__.__name__} {self.name!r}. "
            f"Received: {name}.shape={shape}"
        )

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "score": scores.serialize(self.score),
            "normalizer": normalizers.serialize(self.normalizer),
            "causal": self.causal,
            "sliding_window": self.sliding_window,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "block_size": self.block_size,
            "seed": self.seed,
        }


def grid_of(shape):
    """The sizes between batch and channels, or None for a plain sequence."""
    return tuple(shape[1:-1]) if len(shape) > 3 else None


def _with_heads(tensor, dtype=None):
    """Gives a mask or bias of shape `(B, T, S)` an axis for the heads."""
    if tensor is None:
        return None
    tensor = ops.convert_to_tensor(tensor)
    tensor = tensor if dtype is None else ops.cast(tensor, dtype)
    if len(tensor.shape) == 4:
        return tensor
    return ops.expand_dims(tensor, 1)
