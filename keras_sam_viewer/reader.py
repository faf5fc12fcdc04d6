"""Runs out of the event files of TensorBoard, without TensorFlow."""

import os
import pathlib
import struct

from tensorboard.compat.proto.event_pb2 import Event

from keras_sam_viewer.runs import META_TAG, PLUGIN, STATS_TAG, Run

_LARGEST_EVENT = 2**30


def read_log_dir(log_dir):
    """Returns the runs with attention below a directory, in the order of their names.

    Args:
        log_dir: The directory that TensorBoard reads.

    Raises:
        FileNotFoundError: If there is no such directory.
    """
    log_dir = pathlib.Path(log_dir)
    if not log_dir.is_dir():
        raise FileNotFoundError(f"There is no directory {str(log_dir)!r}.")
    found = {}
    for folder, _, names in os.walk(log_dir):
        files = sorted(name for name in names if "tfevents" in name)
        name = pathlib.Path(folder).relative_to(log_dir).as_posix()
        blobs = {}
        for file in files:
            _read_events(pathlib.Path(folder, file), blobs)
        if "meta" in blobs:
            found[name] = Run(name, blobs)
    return [found[name] for name in sorted(found)]


def _read_events(path, blobs):
    for data in _events(path):
        if PLUGIN.encode() not in data:  # most events are not ours
            continue
        try:
            event = Event.FromString(data)
        except Exception:  # protobuf has no one error for damaged bytes
            continue
        for value in event.summary.value:
            strings = list(value.tensor.string_val)
            if value.tag == META_TAG:
                blobs.update({"meta": strings[0]} if strings else {})
            elif value.tag == STATS_TAG:
                blobs.update({f"stats/{event.step}": strings[0]} if strings else {})
            elif value.tag.startswith(f"{PLUGIN}/maps/"):
                layer = value.tag.rpartition("/")[2]
                if layer.isdecimal():
                    for example, blob in enumerate(strings):
                        blobs[f"map/{event.step}/{int(layer)}/{example}"] = blob


def _events(path):
    """Yields the bytes of each event of a file, up to where it ends or is damaged.

    A record is its length as u64, a checksum of that, the bytes and their checksum.
    """
    with open(path, "rb") as file:
        while len(header := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", header[:8])
            if length > _LARGEST_EVENT:
                return
            data = file.read(length)
            if len(data) < length or len(file.read(4)) < 4:
                return
            yield data
