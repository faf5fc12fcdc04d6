"""Event files with the records of a run, as the callback writes them."""

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from keras_sam_viewer.runs import META_TAG, PLUGIN, STATS_TAG, map_tag


def value(tag, blobs):
    """A summary value that is a sequence of blobs."""
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(blobs))])
    return Summary.Value(
        tag=tag,
        metadata=SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN),
            data_class=DATA_CLASS_BLOB_SEQUENCE,
        ),
        tensor=TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=blobs),
    )


def write_run(folder, run, steps=None):
    """Writes the steps of a run into a new event file of a folder."""
    layers = len(run.layers[run.steps[0]])
    writer = EventFileWriter(str(folder))
    for step in run.steps if steps is None else steps:
        values = [value(META_TAG, [run.blobs["meta"]])] if step == run.steps[0] else []
        values.append(value(STATS_TAG, [run.blobs[f"stats/{step}"]]))
        for layer in range(layers):
            examples = range(run.layers[step][layer].examples)
            blobs = [run.blobs[f"map/{step}/{layer}/{example}"] for example in examples]
            values.append(value(map_tag(layer), blobs))
        summary = Summary(value=values)
        writer.add_event(Event(wall_time=1e9 + step, step=step, summary=summary))
    writer.close()
