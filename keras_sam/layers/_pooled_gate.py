"""What the layers that weigh a feature map with itself share: shapes, masks, handing out
the weights, and convolutions."""

import keras
from keras import ops

from keras_sam import _initializers
from keras_sam import _validation as check
from keras_sam.backend.precision import wide
from keras_sam.gates import pooled
from keras_sam.layers._composite import CompositeLayer
from keras_sam.layers._masks import keras_mask
from keras_sam.recording import AttentionDetails, is_recording, record

_LARGEST_REACH = 4096
_CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}


class Gate(CompositeLayer):
    """Base of the layers that multiply a feature map by weights made of it.

    A subclass sets `kind` and has `_weights_shape(input_shape)`. If it pools, it has
    `_pooling_gate(inputs, mask, training)`, which returns a `PooledGate` and whether
    it is a pure function, which calls no layer; and `_in_shape(weights, inputs)`,
    which brings the weights into their shape, with the channels last. If it does not, it
    has a `_gate` of its own.
    """

    kind = None

    def __init__(self, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        if data_format is None:
            data_format = keras.config.image_data_format()
        choices = ("channels_last", "channels_first")
        self.data_format = check.one_of("data_format", data_format, choices)

    def call(self, inputs, mask=None, return_attention_scores=False, training=None):
        mask = keras_mask(inputs, mask, len(inputs.shape) - 1)
        inputs = ops.cast(inputs, self.compute_dtype)  # pictures may be integers
        self._check_mask(mask, inputs.shape)
        inputs = self._without_padding(inputs, mask)
        outputs, weights = self._gate(inputs, mask, training)
        self._record(weights, inputs)
        return (outputs, weights) if return_attention_scores else outputs

    def _without_padding(self, inputs, mask):
        """Returns the inputs with zeros for padding, which may be no number at all."""
        if mask is None:
            return inputs
        mask = ops.expand_dims(mask, self._channel_axis)
        return ops.where(mask, inputs, ops.zeros_like(inputs))

    def _gate(self, inputs, mask, training):
        """Returns the output and the weights with the channels last."""
        outputs, (weights,) = self._weigh(inputs, [self], mask, training)
        return outputs, weights

    def _record(self, weights, inputs):
        if is_recording():
            record(self, weights, self._details(inputs.shape))

    def _details(self, shape):
        """What the weights are, for inputs of this shape."""
        grid = self._grid(shape)
        return AttentionDetails(self.kind, grid, grid)

    def compute_output_spec(
        self, inputs, mask=None, return_attention_scores=False, training=None
    ):
        mask = keras_mask(inputs, mask, len(inputs.shape) - 1)
        self._check_mask(mask, inputs.shape)
        outputs = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return outputs
        return outputs, self._weights_spec(inputs)

    def _weights_spec(self, inputs):
        shape = self._weights_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    @property
    def _channel_axis(self):
        return -1 if self.data_format == "channels_last" else 1

    def _weigh(self, inputs, layers, mask, training):
        """Runs the gates of layers one after the other; returns weights for each layer.

        In training they are compiled, for each size of the inputs, and for all layers with
        equal rules: so not where sizes are unknown, and not where a layer is called on the
        way.
        """
        made = [layer._pooling_gate(inputs, mask, training) for layer in layers]
        compiled = training and None not in inputs.shape[1:] and all(p for _, p in made)
        run = pooled.weigh_compiled if compiled else pooled.weigh
        outputs, weights = run(inputs, [gate for gate, _ in made])
        pairs = zip(layers, weights, strict=True)
        return outputs, [layer._in_shape(each, inputs) for layer, each in pairs]

    def _cast(self, variables):
        return tuple(ops.cast(variable, self.compute_dtype) for variable in variables)

    def _as_factor(self, weights):
        """Puts the channels of weights where the inputs have them."""
        if self.data_format == "channels_last":
            return weights
        return ops.moveaxis(weights, -1, 1)

    def _check_inputs(self, input_shape):
        """Refuses what is no feature map; returns its channels and its sizes."""
        input_shape = tuple(input_shape)
        known = 3 <= len(input_shape) <= 5 and input_shape[self._channel_axis] is not None
        if not known:
            expected = "(batch, *spatial, channels)"
            if self.data_format == "channels_first":
                expected = "(batch, channels, *spatial)"
            raise ValueError(
                f"`inputs` must have the shape {expected}, with one to three spatial axes "
                f"and known channels, in {self.__class__.__name__} {self.name!r} with "
                f"data_format={self.data_format!r}. Received: inputs.shape={input_shape}"
            )
        channels = input_shape[self._channel_axis]
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={self._channel_axis: channels}
        )
        return channels, self._grid(input_shape)

    def _grid(self, shape):
        """The spatial sizes of inputs of this shape."""
        shape = tuple(shape)
        return shape[1:-1] if self.data_format == "channels_last" else shape[2:]

    def _check_mask(self, mask, shape):
        expected = (shape[0], *self._grid(shape))
        if mask is not None and not check.fits(mask.shape, expected):
            raise ValueError(
                f"`mask` must have the shape {expected}, in {self.__class__.__name__} "
                f"{self.name!r}. Received: mask.shape={tuple(mask.shape)}"
            )

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format}


class ConvolutionalGate(Gate):
    """Base of the gates whose scores come from a convolution."""

    def __init__(
        self,
        kernel_size,
        dilation_rate=1,
        use_bias=False,
        use_batch_norm=False,
        data_format=None,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(data_format=data_format, **kwargs)
        self.kernel_size = _sizes("kernel_size", kernel_size)
        self.dilation_rate = _sizes("dilation_rate", dilation_rate)
        self.use_bias = check.boolean("use_bias", use_bias)
        self.use_batch_norm = check.boolean("use_batch_norm", use_batch_norm)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )
        self.kernel_regularizer = check.regularizer(
            "kernel_regularizer", kernel_regularizer
        )

    def _build_convolution(self, input_shape, channels, filters):
        """Builds the convolution over `channels`, and what follows it."""
        _, grid = self._check_inputs(input_shape)
        sizes = self._for_each("kernel_size", grid)
        rates = self._for_each("dilation_rate", grid)
        self._check_reach(sizes, rates)
        check.weight_shape("`kernel_size`", (*sizes, channels, filters))
        self.convolution = _CONVOLUTIONS[len(grid)](
            filters,
            sizes,
            dilation_rate=rates,
            padding="same",
            data_format="channels_last",  # of the pooled maps, whatever the features have
            use_bias=self.use_bias,
            kernel_initializer=_initializers.fresh(self.kernel_initializer),
            kernel_regularizer=self.kernel_regularizer,
            dtype=self.sublayer_dtype("convolution"),
            name="convolution",
        )
        self.convolution.build((None, *grid, channels))
        self.batch_norm = None
        if self.use_batch_norm:
            # As in the code that the papers' authors published.
            self.batch_norm = _BatchNormalization(
                momentum=0.99, epsilon=1e-5, dtype=self.dtype_policy, name="batch_norm"
            )
            self.batch_norm.build((None, *grid, filters))

    def _check_reach(self, sizes, rates):
        """Refuses convolutions that reach further than any feature map is wide."""
        reach = [(size - 1) * rate + 1 for size, rate in zip(sizes, rates, strict=True)]
        if max(reach) > _LARGEST_REACH:
            raise ValueError(
                "`kernel_size` and `dilation_rate` must reach over at most "
                f"{_LARGEST_REACH} positions, in {self.__class__.__name__} {self.name!r}. "
                f"Received: kernel_size={self.kernel_size}, "
                f"dilation_rate={self.dilation_rate}"
            )

    def _normalize_batch(self, scores, mask, training):
        if self.batch_norm is None:
            return scores
        return self.batch_norm(scores, mask=mask, training=training)

    def _for_each(self, name, grid):
        """One number of the argument `name` for each spatial axis."""
        value = getattr(self, name)
        if not isinstance(value, tuple):
            return (value,) * len(grid)
        if len(value) != len(grid):
            raise ValueError(
                f"`{name}` must be an integer or have as many as the inputs have spatial "
                f"axes, {len(grid)}, in {self.__class__.__name__} {self.name!r}. "
                f"Received: {name}={value}"
            )
        return value

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "dilation_rate": self.dilation_rate,
            "use_bias": self.use_bias,
            "use_batch_norm": self.use_batch_norm,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


def _sizes(name, value):
    """Returns a positive integer, or a tuple of one to three, or raises."""
    values = value if isinstance(value, list | tuple) else (value,)
    if not 1 <= len(values) <= 3 or not all(
        check.is_integer(size) and size >= 1 for size in values
    ):
        expected = "a positive integer, or a tuple of one for each spatial axis"
        raise check.invalid(name, expected, value)
    sizes = tuple(int(size) for size in values)
    return sizes if isinstance(value, list | tuple) else sizes[0]


def pooling_names(pooling):
    """Returns the names of poolings as a tuple, or raises."""
    known = pooled.POOLINGS
    names = (pooling,) if isinstance(pooling, str) else pooling
    if (
        not isinstance(names, list | tuple)
        or not names
        or not all(isinstance(name, str) and name in known for name in names)
        or len(set(names)) < len(names)
    ):
        listed = " or ".join(f'"{name}"' for name in known)
        raise check.invalid("pooling", f"{listed}, or a tuple of different ones", pooling)
    return tuple(names)


class _BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer, whose second derivatives are right on TensorFlow too.

    The variance of `tf.nn.moments` takes the mean for a constant, which is right for
    derivatives of first order only.
    """

    def _moments(self, inputs, mask):
        if mask is not None or self.synchronized:
            return super()._moments(inputs, mask)
        axes, given = self._reduction_axes, inputs.dtype
        inputs = ops.cast(inputs, wide(given))
        mean = ops.mean(inputs, axis=axes, keepdims=True)
        variance = ops.mean(ops.square(inputs - mean), axis=axes)
        return ops.cast(ops.squeeze(mean, axes), given), ops.cast(variance, given)
