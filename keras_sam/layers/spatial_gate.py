"""SpatialGate: features weighed by a gate that another branch computed."""

from collections.abc import Callable

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.layers._composite import CompositeLayer
from keras_sam.layers._masks import pass_on, without_padding
from keras_sam.recording import AttentionDetails, record


@keras.saving.register_keras_serializable(package="keras_sam")
class SpatialGate(CompositeLayer):
    """Multiplies features by a gate, position by position.

    ```
    output = activation(features * gate)
    ```

    The gate is whatever comes in: it has no weights and no sigmoid of its own. Give it
    a convolution with `activation="sigmoid"`. This is `[sam]` of Darknet and, with
    such a convolution of kernel size 1, the spatial attention of YOLOv4.

    Args:
        activation: Activation of the product, a name or a function; None is linear.
        broadcast: Whether a gate of one channel is meant for all channels. Otherwise
            the gate must have the shape of the features.

    Call arguments:
        features: Tensor `(B, *spatial, C)`.
        gate: Tensor `(B, *spatial, C)`, or `(B, *spatial, 1)` with `broadcast=True`.
        features_mask: Boolean `(B, *spatial)`, False for padding; Keras hands over the
            mask of an `Embedding` or `Masking` layer by itself.

    Masking:
        Padding gets the gate zero. The mask is passed on.

    Output shape:
        The shape of `features`.

    Raises:
        ValueError: For an argument out of range, when the layer is made; for a gate or a
            mask whose shape does not fit, when it is built or called.

    Example:

    >>> import keras, keras_sam
    >>> features = keras.Input((13, 13, 64))
    >>> gate = keras.layers.Conv2D(64, 1, activation="sigmoid")(features)
    >>> keras_sam.layers.SpatialGate()(features, gate).shape
    (None, 13, 13, 64)

    Reference:
        Bochkovskiy et al., 2020, "YOLOv4: Optimal Speed and Accuracy of Object Detection"
        (https://arxiv.org/abs/2004.10934), figure 5b.
    """

    def __init__(
        self, activation: str | Callable | None = None, broadcast: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.broadcast = check.boolean("broadcast", broadcast)
        self.supports_masking = True

    def build(self, features_shape, gate_shape):
        self._check_shapes(features_shape, gate_shape)

    def call(self, features, gate, features_mask=None):
        self._check_shapes(features.shape, gate.shape, features_mask)
        if features_mask is not None:
            features_mask = ops.cast(features_mask, "bool")
            gate = without_padding(gate, features_mask)
            features = without_padding(features, features_mask)
        one_for_all = gate.shape[-1] == 1
        kind = "spatial" if one_for_all else "pointwise_spatial"
        record(self, gate, AttentionDetails(kind, query_grid=tuple(gate.shape[1:-1])))
        outputs = self.activation(features * gate)
        pass_on(outputs, features_mask)
        return outputs

    def compute_output_spec(self, features, gate, features_mask=None):
        self._check_shapes(features.shape, gate.shape, features_mask)
        outputs = keras.KerasTensor(features.shape, dtype=self.compute_dtype)
        pass_on(outputs, features_mask)
        return outputs

    def compute_output_shape(self, features_shape, gate_shape):
        self._check_shapes(features_shape, gate_shape)
        return tuple(features_shape)

    def get_config(self):
        return super().get_config() | {
            "activation": keras.activations.serialize(self.activation),
            "broadcast": self.broadcast,
        }

    def _check_shapes(self, features, gate, mask=None):
        features, gate = tuple(features), tuple(gate)
        where = f"in SpatialGate {self.name!r}"
        if mask is not None and not check.fits(mask.shape, features[:-1]):
            raise ValueError(
                f"`features_mask` must have the shape {features[:-1]}, {where}. "
                f"Received: features_mask.shape={tuple(mask.shape)}"
            )
        expected = (*features[:-1], 1) if self.broadcast else features
        if check.fits(gate, features) or (self.broadcast and check.fits(gate, expected)):
            return
        hint = ""
        if not self.broadcast and check.fits(gate, (*features[:-1], 1)):
            hint = " A gate of one channel needs `broadcast=True`."
        raise ValueError(
            "`gate` must have the shape of `features`"
            + (", or one channel" if self.broadcast else "")
            + f", {where}.{hint} Received: features.shape={features}, "
            f"gate.shape={gate}"
        )
