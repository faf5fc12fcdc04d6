"""Runs of the tests of the viewer as event files of TensorBoard."""

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from keras_sam.callbacks._records import _value
from keras_sam_viewer.runs import META_TAG, STATS_TAG, map_tag


def write_log(folder, run):
    """Writes a run as `AttentionTensorBoard` does, step by step."""
    writer = EventFileWriter(str(folder))
    for step in run.steps:
        tags = {STATS_TAG: [run.blobs[f"stats/{step}"]]}
        if step == run.steps[0]:
            tags[META_TAG] = [run.blobs["meta"]]
        for key, blob in run.blobs.items():
            if key.startswith(f"map/{step}/"):
                tags.setdefault(map_tag(key.split("/")[2]), []).append(blob)
        values = [_value(tag, blobs) for tag, blobs in tags.items()]
        writer.add_event(Event(step=step, wall_time=1e9, summary=Summary(value=values)))
    writer.close()
