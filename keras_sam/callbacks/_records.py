"""The records of the viewer, as summaries of TensorBoard."""

import numpy as np
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING

from keras_sam import _viewed
from keras_sam_viewer import records, steps
from keras_sam_viewer.runs import META_TAG, PLUGIN, STATS_TAG, map_tag

_LARGE = 100e6  # bytes of a training, from which on it is said how many they will be


class RecordWriter:
    """Makes the records of one run: `meta` when it changes, statistics and maps each step.

    Args:
        levels: The largest code of a weight, 255 or 63.
        examples: How many examples to keep.
    """

    def __init__(self, levels, examples):
        self._options = steps.Options(levels)
        self._examples = examples
        self._meta = None
        self._extents = {}
        self._pictures = None
        self._has_estimated = False

    def values(self, maps, step, logs, tokens_of, inputs, failed, expected_steps=None):
        """Returns the summary values of one step.

        Args:
            maps: The `AttentionMaps`.
            step: An integer.
            logs: Numbers by name, such as the loss, or None before training.
            tokens_of: A function from a layer path to a pair of lists of tokens, or None.
            inputs: The inputs of the model, among which may be pictures.
            failed: A function of what was skipped and of the error.
            expected_steps: How many steps the training has, or None.
        """
        layers, extents, found = [], [], []
        for path in maps:
            try:
                layer = _viewed.layer_of(maps, path, self._examples)
                extent = self._extent(layer)
                found.append(steps.encode_layer(layer, extent, self._options))
            except Exception as error:
                failed(f"the records of the layer {path!r}", error)
                continue
            layers.append(layer)
            extents.append(extent)
        if not layers:
            return []
        numbers = {
            name: value for name, value in (logs or {}).items() if np.ndim(value) == 0
        }
        blobs = {STATS_TAG: [steps.encode_stats(found, step, numbers)]}
        for i, of_layer in enumerate(found):
            count = range(len(of_layer.maps))
            blobs[map_tag(i)] = [steps.encode_map(of_layer, i, j, step) for j in count]
        self._estimate(blobs, expected_steps)
        meta = self._describe(layers, extents, numbers, tokens_of, inputs)
        if meta != self._meta:
            self._meta, blobs[META_TAG] = meta, [meta]
        return [_value(tag, of_tag) for tag, of_tag in blobs.items()]

    def _extent(self, layer):
        """Returns the extent of a layer, which is the same for the same inputs."""
        key = layer.path, layer.weights.shape
        if key not in self._extents:
            self._extents[key] = _viewed.extents_of([layer])[0]
        return self._extents[key]

    def _describe(self, layers, extents, numbers, tokens_of, inputs):
        if self._pictures is None:
            self._pictures = _viewed.pictures_of(inputs, self._examples) or []
        description = _viewed.Description(layers, tokens_of, self._pictures)
        count = max(layer.examples for layer in layers)
        known = records.unpack_json(self._meta)["scalars"] if self._meta else []
        return steps.encode_meta(
            layers,
            extents,
            self._options,
            **description.arguments(),
            examples=[f"example {i}" for i in range(count)],
            scalars=[*known, *(name for name in numbers if name not in known)],
        )

    def _estimate(self, blobs, expected_steps):
        """Says once how large the records of a training will be, if that is much."""
        if self._has_estimated or not expected_steps:
            return
        self._has_estimated = True
        size = expected_steps * sum(
            len(blob) for of_tag in blobs.values() for blob in of_tag
        )
        if size > _LARGE:
            print(
                f"AttentionTensorBoard: about {size / 1e6:.0f} MB of attention records in "
                f"{expected_steps} steps. `levels=63` makes them smaller, `max_examples` "
                f"and `update_freq` fewer, and `write_records=False` none."
            )


def _value(tag, blobs):
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN)
    metadata = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_BLOB_SEQUENCE)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(blobs))])
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=blobs)
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
