"""Several devices: how the weights of attention are split over them."""

import keras

from keras_sam import _validation as check

__all__ = ["layout_map"]

PROJECTIONS = "query|key|value|gate|parts"
SCORES = "additive|bilinear|low_rank_bilinear|cosine"


def layout_map(device_mesh, axis: str = "model"):
    """Returns the layouts of `keras.distribution.ModelParallel` for attention.

    Each device of the axis has some of the heads (Megatron's split)::

        query, key, value, gate     (C, H, D)    H is split, and of their biases
        weights of scores           (H, ...)     H is split
        attention_output            (H, D, C)    H is split: its product is added up

    So devices exchange one sum for each layer. Weights without heads are on every device.
    The layouts work for Keras's `MultiHeadAttention` as well, and others can be added to
    the map.

    Args:
        device_mesh: A `keras.distribution.DeviceMesh`.
        axis: The name of the axis of the mesh that the heads are split over. Its size
            must divide the number of heads, and of heads of keys and values.

    Raises:
        ValueError: If the mesh has no such axis.

    Example (JAX, with eight devices)::

        mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
        layouts = keras_sam.distribution.layout_map(mesh)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
        )
        model = make_model()  # afterwards

    Reference:
        Shoeybi et al., 2019, "Megatron-LM" (https://arxiv.org/abs/1909.08053), section 3.
    """
    if axis not in device_mesh.axis_names:
        expected = f"one of the axes of `device_mesh`, {device_mesh.axis_names}"
        raise check.invalid("axis", expected, axis)
    layouts = keras.distribution.LayoutMap(device_mesh)
    for pattern, layout in {
        rf"({PROJECTIONS})/kernel": (None, axis, None),
        rf"({PROJECTIONS})/bias": (axis, None),
        r"attention_output/kernel": (axis, None, None),
        rf"({SCORES})(_\d+)?/\w+": (axis, None, None),
        r"context_vector": (axis, None),
    }.items():
        layouts[rf"^(.*/)?{pattern}$"] = layout
    return layouts
