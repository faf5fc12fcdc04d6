"""The attention layer of TensorFlow Addons, for models that were trained with it."""

import inspect
import math

import keras
from keras import ops

from keras_sam import _initializers
from keras_sam import _validation as check
from keras_sam.addons._legacy import policy_name, revive
from keras_sam.backend.precision import matmul, wide
from keras_sam.normalizers import Softmax
from keras_sam.normalizers.masking import attention_weights
from keras_sam.recording import AttentionDetails, is_recording, record

# What TensorFlow Addons adds to the scores of masked keys. It is added, not put in their
# place, so a row with nothing to attend to attends to all keys alike.
MASKED_BIAS = -1e10
SCORE_MAX = 1e9


@keras.saving.register_keras_serializable(package="Addons")
class MultiHeadAttention(keras.layers.Layer):
    """`tfa.layers.MultiHeadAttention`, so that models which were saved with it load.

    ```
    q, k, v = query W_q, key W_k, value W_v                       for each head
    weights = softmax(q . k / sqrt(head_size) - 1e10 (1 - mask))
    output  = sum over heads(dropout(weights) v W_o) + b
    ```

    It takes the same arguments and inputs, has the same weights in the same order and
    computes the same. In new models use `keras_sam.CrossAttention`, which understands
    padding and whose memory does not grow with the product of the lengths; `convert`
    turns this layer into it.

    Args:
        head_size: Width `D` of each head's queries, keys and values.
        num_heads: Number of heads `H`.
        output_size: Width of the output; None is the width of the value.
        dropout: Share of the weights that are dropped in training, in [0, 1).
        use_projection_bias: Whether the output has a bias.
        return_attn_coef: Whether to return the weights as well.
        kernel_initializer, kernel_regularizer, kernel_constraint: For the four kernels.
        bias_initializer, bias_regularizer, bias_constraint: For the bias.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: A list `[query, key]` or `[query, key, value]` of tensors `(..., T, Cq)`,
            `(..., S, Ck)` and `(..., S, Cv)`; without a value, the key is the value.
        training: Whether to apply dropout.
        mask: Tensor `(..., H, T, S)`, `(..., T, S)` or `(T, S)` of ones for "may attend"
            and zeros.

    Masking:
        A row whose mask is all zeros attends to all keys alike. The masks of `Embedding`
        or `Masking` layers are refused, as TensorFlow Addons did.

    Output shape:
        `(..., T, output_size)`; with `return_attn_coef=True` also the weights, before
        dropout, `(..., H, T, S)`.

    Raises:
        ValueError: For an argument out of range or missing in a configuration, when the
            layer is made; for inputs or masks that do not fit, when it is called.

    Example:

    >>> import numpy as np, keras_sam.addons
    >>> layer = keras_sam.addons.MultiHeadAttention(head_size=4, num_heads=2)
    >>> layer([np.ones((1, 3, 5)), np.ones((1, 7, 6))]).shape
    TensorShape([1, 3, 6])

    Reference:
        Vaswani et al., 2017, "Attention Is All You Need"
        (https://arxiv.org/abs/1706.03762), section 3.2.2, without the biases of queries,
        keys and values.
    """

    def __init__(
        self,
        head_size,
        num_heads,
        output_size=None,
        dropout=0.0,
        use_projection_bias=True,
        return_attn_coef=False,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        kernel_constraint=None,
        bias_initializer="zeros",
        bias_regularizer=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.head_size = check.positive_integer("head_size", head_size)
        self.num_heads = check.positive_integer("num_heads", num_heads)
        self.output_size = check.positive_integer("output_size", output_size, optional=True)
        self.dropout = check.rate("dropout", dropout)
        self.use_projection_bias = check.boolean("use_projection_bias", use_projection_bias)
        self.return_attn_coef = check.boolean("return_attn_coef", return_attn_coef)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )
        self.kernel_regularizer = check.regularizer(
            "kernel_regularizer", kernel_regularizer
        )
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_initializer = check.initializer("bias_initializer", bias_initializer)
        self.bias_regularizer = check.regularizer("bias_regularizer", bias_regularizer)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        if self.dropout > 0:
            self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape):
        # In this order, because weight files know weights by their place.
        query, key, value = (shape[-1] for shape in self._three(input_shape))
        width, output_size = self.head_size, self.output_size or value
        self.query_kernel = self._add_kernel(0, "query_kernel", query, width)
        self.key_kernel = self._add_kernel(1, "key_kernel", key, width)
        self.value_kernel = self._add_kernel(2, "value_kernel", value, width)
        self.projection_kernel = self._add_kernel(
            3, "projection_kernel", width, output_size
        )
        self.projection_bias = None
        if self.use_projection_bias:
            self.projection_bias = self.add_weight(
                name="projection_bias",
                shape=(output_size,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def _add_kernel(self, nth, name, rows, columns):
        kernel = self.num_heads, rows, columns
        check.weight_shape("`num_heads`, `head_size` and `output_size`", kernel)
        return self.add_weight(
            name=name,
            shape=kernel,
            initializer=_initializers.fresh(self.kernel_initializer, nth),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def __call__(self, *args, **kwargs):
        if "mask" in kwargs:
            kwargs["mask"] = revive(self, "mask", kwargs["mask"])
        return super().__call__(*args, **kwargs)

    def call(self, inputs, training=None, mask=None):
        query, key, value = self._three(inputs)
        mask = self._checked_mask(query, key, value, mask)
        kind = "self" if query is key else "cross"
        query = ops.einsum("...tc,hcd->...htd", query, self.query_kernel)
        key = ops.einsum("...sc,hcd->...hsd", key, self.key_kernel)
        value = ops.einsum("...sc,hcd->...hsd", value, self.value_kernel)
        query = ops.divide(query, math.sqrt(self.head_size))
        scores = matmul(query, ops.swapaxes(key, -1, -2))  # (..., H, T, S)
        weights = self._weights(scores, mask)
        if is_recording():
            record(self, weights, AttentionDetails(kind), _allowed(mask, weights))
        dropped = weights
        if training and self.dropout > 0:
            dropped = keras.random.dropout(weights, self.dropout, seed=self.seed_generator)
        output = ops.einsum(
            "...htd,hdo->...to", matmul(dropped, value), self.projection_kernel
        )
        if self.projection_bias is not None:
            output = output + ops.convert_to_tensor(self.projection_bias)
        return (output, weights) if self.return_attn_coef else output

    def _weights(self, scores, mask):
        """Normalizes the scores as TensorFlow Addons did, in float32 or wider."""
        if mask is not None:
            bias = ops.multiply(ops.subtract(1.0, ops.cast(mask, "float32")), MASKED_BIAS)
            if len(bias.shape) != len(scores.shape):
                bias = ops.expand_dims(bias, -3)
            dtype = wide(self.compute_dtype)
            # Products that ran out of the range of float16 are infinite.
            finite = ops.clip(ops.cast(scores, dtype), -SCORE_MAX, SCORE_MAX)
            scores = finite + ops.cast(bias, dtype)
        return ops.cast(attention_weights(scores, Softmax()), self.compute_dtype)

    def compute_output_spec(self, inputs, training=None, mask=None):
        query, key, value = self._three(inputs)
        self._checked_mask(query, key, value, mask)
        shapes = self.compute_output_shape([query.shape, key.shape, value.shape])
        if not self.return_attn_coef:
            return keras.KerasTensor(shapes, dtype=self.compute_dtype)
        return tuple(keras.KerasTensor(shape, dtype=self.compute_dtype) for shape in shapes)

    def compute_output_shape(self, input_shape):
        query, key, value = self._three(input_shape)
        output = (*query[:-1], self.output_size or value[-1])
        if not self.return_attn_coef:
            return output
        return output, (*query[:-2], self.num_heads, query[-2], key[-2])

    def compute_mask(self, inputs, previous_mask):
        """Passes no mask on, as TensorFlow Addons did."""

    def _three(self, inputs):
        """Returns query, key and value, of tensors or of shapes."""
        if (
            not isinstance(inputs, list | tuple)
            or len(inputs) not in (2, 3)
            or not all(hasattr(part, "shape") or _is_shape(part) for part in inputs)
        ):
            raise ValueError(
                "`inputs` must be a list [query, key] or [query, key, value] of tensors "
                f"(..., length, channels), in MultiHeadAttention {self.name!r}. "
                f"Received: inputs={inputs!r}"
            )
        query, key, *value = inputs
        return query, key, value[0] if value else key

    def _checked_mask(self, query, key, value, mask):
        """Returns `mask`, or None for the masks of inputs that have none; or raises."""
        if key.shape[-2] != value.shape[-2]:
            raise ValueError(
                "`key` and `value` must have the same length, in MultiHeadAttention "
                f"{self.name!r}. Received: key.shape={tuple(key.shape)}, "
                f"value.shape={tuple(value.shape)}"
            )
        if isinstance(mask, list | tuple):  # Keras collects one for each of the inputs
            if all(each is None for each in mask):
                return None
            raise ValueError(
                f"`mask` must be one tensor (..., {query.shape[-2]}, {key.shape[-2]}) of "
                f"what may attend to what, in MultiHeadAttention {self.name!r}. "
                "TensorFlow Addons' layer never took the masks of its inputs, which "
                "`Embedding(mask_zero=True)` and `Masking` make. Pass `mask`, or use "
                f"keras_sam.CrossAttention, which takes them. Received: mask={mask!r}"
            )
        if mask is None:
            return None
        expected = query.shape[-2], key.shape[-2]
        shape = tuple(mask.shape)
        if len(shape) < 2 or any(
            None not in pair and pair[0] != pair[1]
            for pair in zip(shape[-2:], expected, strict=True)
        ):
            raise ValueError(
                f"`mask` must have the shape (..., {expected[0]}, {expected[1]}), in "
                f"MultiHeadAttention {self.name!r}. Received: mask.shape={shape}"
            )
        return mask

    def get_config(self):
        return {
            **super().get_config(),
            "head_size": self.head_size,
            "num_heads": self.num_heads,
            "output_size": self.output_size,
            "dropout": self.dropout,
            "use_projection_bias": self.use_projection_bias,
            "return_attn_coef": self.return_attn_coef,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    @classmethod
    def from_config(cls, config):
        name = config.get("name")
        known = {*inspect.signature(cls).parameters, "name", "trainable", "dtype"}
        missing = [each for each in ("head_size", "num_heads") if each not in config]
        unknown = sorted(set(config) - known)
        if missing or unknown:
            raise ValueError(
                "The configuration must be that of tfa.layers.MultiHeadAttention, in "
                f"MultiHeadAttention {name!r}: it needs `head_size` and `num_heads`, and "
                "may have no arguments but those of that layer. "
                f"Received: missing={missing}, unknown={unknown}"
            )
        return cls(**{**config, "dtype": policy_name(config.get("dtype"))})


def _is_shape(value):
    return isinstance(value, list | tuple) and len(value) >= 2


def _allowed(mask, weights):
    """Returns a mask as booleans with the axes of the weights `(B, H, T, S)`, or None."""
    if mask is None or len(weights.shape) != 4:
        return None
    allowed = ops.cast(mask, "bool")
    axes = {2: (0, 1), 3: (1,), 4: ()}[len(allowed.shape)]
    return ops.expand_dims(allowed, axes) if axes else allowed
