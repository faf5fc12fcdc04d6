"""Self-attention over sequences, images and volumes."""

from collections.abc import Callable, Sequence

import keras

from keras_sam import _validation as check
from keras_sam import masks, scores
from keras_sam.attention.arguments import check_together
from keras_sam.layers._cached import current
from keras_sam.layers._cached_self import CachedSelfAttention
from keras_sam.layers._masks import check_mask, check_segments, keras_mask
from keras_sam.layers._multi_head import ProjectedAttention


@keras.saving.register_keras_serializable(package="keras_sam")
class SelfAttention(ProjectedAttention, CachedSelfAttention):
    """Multi-head self-attention with any score and any normalizer.

    ```
    q, k, v = x W_q + b_q, x W_k + b_k, x W_v + b_v            for each head
    weights = mask * normalizer(where(mask, score(q, k) + bias, very negative))
    output  = concat over heads(dropout(weights) v) W_o + b_o
    ```

    With `score="scaled_dot"` and `normalizer="softmax"` this is what
    `keras.layers.MultiHeadAttention` computes when it is called with one tensor, and the
    weights are laid out the same: `layer.set_weights(keras_layer.get_weights())` carries
    them over.

    With `selective=True` there is *selective masking*: positions decide what those after
    them need no longer see. The first head selects: as far as its logits (`score + bias`)
    are positive, they are taken off the logits of all heads in all later rows. It adds no
    weights, and it is another mechanism than the importance weighting of the layer
    `SelectiveAttention`.

    ```
    S_ij    = max(logits_ij, 0)  of the first head, for keys 0 < j < i it may attend to
    F_ij    = sum over k < i of S_kj
    weights = mask * normalizer(where(mask, score(q, k) + bias - F, very negative))

    logits          S               F
    1 . . . .       . . . . .       . . . . .      Row 2 takes 4 off key 1, for
    2 1 . . .       . . . . .       . . . . .      rows 3 and 4. The first key and
    3 4 1 . .       . 4 . . .       . . . . .      the row itself are never selected,
    5-6 7 1 .       . . 7 . .       . 4 . . .      and nothing is ever given back.
    8 9 2 3 1       . 9 2 3 .       . 4 7 . .
    ```

    Args:
        num_heads: Number of heads `H`.
        key_dim: Width `D` of each head's queries and keys. None is `C / num_heads`.
        value_dim: Width of each head's values. None is `key_dim`.
        num_key_value_heads: Number of heads of keys and values, each shared by a group
            of query heads (grouped-query attention). A divisor of `num_heads`; None is
            `num_heads`.
        score: A name, `"dot"`, `"scaled_dot"`, `"cosine"`, `"additive"`, `"bilinear"`
            or `"low_rank_bilinear"`, or a `keras_sam.scores.Score`.
        normalizer: A name, `"softmax"`, `"sigmoid"`, `"hard_sigmoid"`, `"sparsemax"` or
            `"entmax"`, or an instance from `keras_sam.normalizers` or of your own
            registered class.
        causal: Whether a position attends to itself and those before it only: short for
            `mask=keras_sam.masks.Causal()`, beside any other mask.
        sliding_window: Attend only to positions less than this many away, before and
            after (with `causal`: before): short for `mask=keras_sam.masks.Window(number)`.
            None is no limit.
        dropout: Share of the weights that are dropped in training, in [0, 1).
        use_bias: Whether the projections have biases.
        kernel_initializer: For the projections.
        kernel_regularizer: For the projections.
        block_size: How many query rows are computed at a time. `"auto"` chooses by the
            sizes; None is all at once, which keeps whole score matrices.
        seed: Seed of the dropout.
        mask: A `keras_sam.masks.Mask`, such as `Causal() & (Window(256) | Global(16))`, or
            None. Compiled kernels skip tiles of rows and keys that are masked as a whole,
            and make no tensor of all pairs.
        selective: Whether to use selective masking, as above. `causal` must be True
            then. `sliding_window` does not change `F`: each position that could hide a
            key of a row's window has that key in its own window.
        memory_loss: The weight of a loss that teaches the layer, in training, to hide more
            keys, so that decoding needs fewer (`memory_budget` of `make_cache`). Row `i`
            needs about `M_i = sum over its keys of 1 - min(F_ij, 1)` keys. The loss is the
            mean over examples of the largest `M_i`, divided by the number of rows.
            Leviathan et al. use a weight of 0.1 / L for `L` layers. The loss makes one
            matrix of all pairs. 0 is no such loss.
        output_shape: The sizes of the output's last axes, instead of `C`.
        attention_axes: The axes of the positions. All other axes between batch and
            channels are further examples. None is all axes between them.
        use_gate: Whether the heads' outputs are multiplied by `sigmoid(x W_g + b_g)`. The
            weights of the gate are between those of keys and values.
        bias_initializer, bias_regularizer, bias_constraint: For the projections.
        kernel_constraint, activity_regularizer: For the projections.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor `(B, T, C)`, or `(B, height, width, C)` or `(B, depth, height,
            width, C)`: then `T` is all their positions in row-major order.
        mask: Boolean `(B, T)` (or the shape of the positions), False for padding; Keras
            hands over the mask of an `Embedding` or `Masking` layer by itself.
        attention_mask: Boolean `(T, T)`, `(B, T, T)` or `(B, H, T, T)`, True for "may
            attend". Sizes of 1 broadcast. With `attention_axes` the sizes of the other
            axes are behind `B`. Instead of each `T` there may be the sizes of its axes.
        attention_bias: Float tensor of the same shapes, added to the scores.
        return_attention_scores: Whether to return the weights as well. They are as
            normalized and masked, before dropout.
        training: Whether to apply dropout.
        use_causal_mask: True is `causal=True` in this call.
        segment_ids: Integers of the shape of `mask`, for a mask with `Segments()`: a
            position then sees its own segment, such as one of several packed documents.
        cache: What `make_cache(batch, length)` or the last call returned, to decode step
            by step: a position then also sees those before it that are in the cache. All
            masks must be causal. `attention_mask` and `attention_bias` are over `T` and
            all slots of the cache, and are refused where slots are used again.
        cache_update_index: With a cache, the position of the first of these inputs: an
            integer, or an integer tensor of shape `()` or `(B,)`. Where a tensor leads
            beyond the cache, the output is not a number, or PyTorch raises `IndexError`.
            After padding that `mask` marks, an example goes on at its own number of
            positions so far.

    Masking:
        Padding neither gives nor receives weight. A row with nothing to attend to has
        weights of exactly zero, in every dtype, so that its output is the output bias.
        The mask is passed on. float16 and bfloat16 layers normalize in float32. Padding
        selects nothing, and the first key that is never selected is the first one that
        is not padding; rows do not select what they may not attend to.

    Output shape:
        The shape of `inputs`, with `output_shape` for its channels if that is given; with
        `return_attention_scores=True` also the weights, `(B, H, T, T)`. With
        `attention_axes` the sizes of the other axes are behind `B`. With `cache` the last
        result is the new cache, and the weights are over its slots, `(B, H, T, S)`; if
        they are used again, over old slots and new inputs in the order of positions, which
        ends with the last input.

    Raises:
        ValueError: For an argument out of range, when the layer is made; for inputs or
            masks whose shapes do not fit, when it is built or called.

    Example:

    >>> import keras, keras_sam
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((None,), dtype="int32"),
    ...         keras.layers.Embedding(1000, 32, mask_zero=True),
    ...         keras_sam.SelfAttention(num_heads=4, score="additive"),
    ...         keras.layers.GlobalAveragePooling1D(),
    ...         keras.layers.Dense(2, activation="softmax"),
    ...     ]
    ... )
    >>> model(keras.ops.ones((3, 7), dtype="int32")).shape
    TensorShape([3, 2])

    References:
        - Vaswani et al., 2017, "Attention Is All You Need"
          (https://arxiv.org/abs/1706.03762), section 3.2.
        - Ainslie et al., 2023, "GQA: Training Generalized Multi-Query Transformer Models"
          (https://arxiv.org/abs/2305.13245), for `num_key_value_heads`.
        - Leviathan et al., 2024, "Selective Attention Improves Transformer"
          (https://arxiv.org/abs/2410.02703), section 3 and, for `memory_loss`, the one on
          an explicit loss.
        - Qiu et al., 2025, "Gated Attention for Large Language Models"
          (https://arxiv.org/abs/2505.06708), for `use_gate`.
    """

    kind = "self"

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
        selective: bool = False,
        memory_loss: float = 0.0,
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
        super().__init__(
            num_heads,
            key_dim,
            value_dim,
            num_key_value_heads,
            score,
            normalizer,
            causal,
            sliding_window,
            dropout,
            use_bias,
            kernel_initializer,
            kernel_regularizer,
            block_size,
            seed,
            mask=mask,
            output_shape=output_shape,
            attention_axes=attention_axes,
            use_gate=use_gate,
            bias_initializer=bias_initializer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.selective = check.boolean("selective", selective)
        check_together(self.score, self.normalizer, selective)
        if selective and not self.is_causal:
            raise ValueError(
                "`causal` must be True where `selective` is, because positions select "
                "for those after them. Received: causal=False, selective=True"
            )
        self.memory_loss = check.number("memory_loss", memory_loss, "a number from 0 on")
        if self.memory_loss < 0:
            raise check.invalid("memory_loss", "a number from 0 on", memory_loss)
        if self.memory_loss and not selective:
            expected = "0 where `selective` is False"
            raise check.invalid("memory_loss", expected, memory_loss)

    def __call__(self, *args, **kwargs):
        shapes = [tuple(x.shape) for x in args if hasattr(x, "shape")]
        if len(shapes) > 1 and len(shapes[0]) == len(shapes[1]):
            raise ValueError(
                "`inputs` must be the only tensor without a name, in SelfAttention "
                f"{self.name!r}, which is called as `layer(inputs, mask=mask)`. One tensor "
                "attends to another in `CrossAttention`, which is called as `layer(query, "
                f"value)`. Received: {len(shapes)} tensors, of shapes {shapes}"
            )
        return super().__call__(*args, **kwargs)

    def build(self, input_shape):
        input_shape = tuple(input_shape)
        if not 3 <= len(input_shape) <= 5 or input_shape[-1] is None:
            raise ValueError(
                "`inputs` must have the shape (batch, length, channels), (batch, "
                "height, width, channels) or (batch, depth, height, width, channels), "
                f"with known channels, in SelfAttention {self.name!r}. "
                f"Received: inputs.shape={input_shape}"
            )
        flat = self._axes(input_shape).flat_shape
        self._build_projections(flat, flat, flat)
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={-1: input_shape[-1]}
        )

    def call(
        self,
        inputs,
        mask=None,
        attention_mask=None,
        attention_bias=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        segment_ids=None,
        cache=None,
        cache_update_index=None,
    ):
        mask = keras_mask(inputs, mask, len(inputs.shape) - 1)
        given = mask, attention_mask, attention_bias, use_causal_mask, segment_ids
        decoding = current() if cache is None else None
        self._check_call(inputs, cache, cache_update_index, *given)
        options = {
            "attention_mask": attention_mask,
            "attention_bias": attention_bias,
            "return_attention_scores": return_attention_scores,
            "training": training,
            "use_causal_mask": use_causal_mask,
        }
        if cache is not None:
            options |= {"mask": mask, "segment_ids": segment_ids}
            return self._attend_cached(inputs, cache, cache_update_index, **options)
        if decoding is not None:
            found = self._decode(decoding, inputs, mask, segment_ids, options)
            if found is not None:
                return found
        return self._attend(
            inputs,
            inputs,
            inputs,
            query_mask=mask,
            key_mask=mask,
            query_segment_ids=segment_ids,
            selective=self.selective,
            memory_loss=self.memory_loss if training else 0.0,
            **options,
        )

    def compute_output_spec(
        self,
        inputs,
        mask=None,
        attention_mask=None,
        attention_bias=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        segment_ids=None,
        cache=None,
        cache_update_index=None,
    ):
        mask = keras_mask(inputs, mask, len(inputs.shape) - 1)
        given = mask, attention_mask, attention_bias, use_causal_mask, segment_ids
        self._check_call(inputs, cache, cache_update_index, *given)
        if cache is not None:
            return self._cached_specs(inputs, cache, return_attention_scores)
        return self._output_specs(inputs, inputs, return_attention_scores)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], *self._channels(input_shape))

    def get_config(self):
        return {
            **super().get_config(),
            "selective": self.selective,
            "memory_loss": self.memory_loss,
        }

    def _check_call(
        self,
        inputs,
        cache,
        index,
        mask,
        attention_mask,
        attention_bias,
        use_causal_mask,
        segment_ids,
    ):
        check.flag("use_causal_mask", use_causal_mask)
        check_mask(self, "mask", mask, inputs)
        check_segments(self, segment_ids=(segment_ids, inputs))
        if cache is not None:  # its slots are the keys; see `_attend_cached`
            return
        if index is not None:
            expected = f"None where `cache` is, in SelfAttention {self.name!r}"
            raise check.invalid("cache_update_index", expected, index)
        self._check_pairs(
            inputs, inputs, attention_mask=attention_mask, attention_bias=attention_bias
        )
