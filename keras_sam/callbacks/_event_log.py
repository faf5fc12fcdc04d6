"""The event files under one log directory: one for each run, written at once.

TensorBoard reads one growing file of a run; what a second one gets at the same time may
never be seen. So within a process there is one log for each directory, which all share
who write there.
"""

import contextlib
import itertools
import os
import socket
import struct
import time
import weakref
from typing import ClassVar

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from keras_sam.callbacks._checksums import masked_crc32c
from keras_sam.callbacks._summaries import layout

# Events of scalars alone are smaller than this; others need not be read for their step.
_SCALARS_ONLY = 2**20
_number = itertools.count()


class EventLog:
    """The open runs of a log directory.

    Args:
        directory: The directory of the run itself; others are below it.
    """

    _open: ClassVar = weakref.WeakValueDictionary()

    @classmethod
    def open(cls, directory, user):
        """Returns the log of `directory`, made if nobody has it open; `user` may write."""
        key = directory if "://" in directory else os.path.realpath(directory)
        log = cls._open.get(key)
        if log is None:
            log = cls._open[key] = cls(directory)
        log._users.add(user)
        return log

    def __init__(self, directory):
        self.directory = directory
        self._users = weakref.WeakSet()
        self._runs = {}
        self._charts = {}
        self.thinned = {}  # runs of few steps, by name

    def write(self, values, step, run=""):
        """Writes summary values as one event, to the disk before it returns."""
        if values:
            self.append([event_of(values, step)], run)

    def append(self, events, run=""):
        """Writes events, to the disk before it returns."""
        if run not in self._runs:
            folder = (
                os.path.join(self.directory, *run.split("/")) if run else self.directory
            )
            self._runs[run] = EventFile(folder)
        elif self._runs[run].is_gone():
            self._leave_what_is_gone()
            raise FileNotFoundError("event files were removed; the next step has new ones")
        try:
            self._runs[run].append(events)
        except Exception:
            del self._runs[run]  # the next step gets a new file
            raise

    def _leave_what_is_gone(self):
        for name in [name for name, file in self._runs.items() if file.is_gone()]:
            self._runs.pop(name).close()
        self._charts = {}

    def write_layout(self, categories, step):
        """Writes the layout of the scalars, with what was laid out before, if it is new."""
        charts = {title: dict(found) for title, found in self._charts.items()}
        for title, found in categories.items():
            charts.setdefault(title, {}).update(found)
        if charts != self._charts:
            self.write([layout(charts)], step)
            self._charts = charts

    def last_step(self, prefix):
        """Returns the last step of the scalars that begin with `prefix`, or None."""
        steps = [
            event.step
            for event in read_events(self.directory, _SCALARS_ONLY)
            if any(value.tag.startswith(prefix) for value in event.summary.value)
        ]
        return max(steps, default=None)

    def close(self, user):
        """Ends the writing of `user`; the last one closes the files."""
        self._users.discard(user)
        if not self._users:
            for key in [key for key, log in self._open.items() if log is self]:
                del self._open[key]
            runs, self._runs = self._runs, {}
            for file in runs.values():
                file.close()


def event_of(values, step):
    """Returns summary values as an event."""
    return Event(step=step, wall_time=time.time(), summary=Summary(value=values))


class EventFile:
    """A new event file.

    A file that cannot hold even its first event, on a full disk, is removed again.
    """

    def __init__(self, directory):
        parts = int(time.time()), socket.gethostname(), os.getpid(), next(_number)
        name = "events.out.tfevents.{:010d}.{}.{}.{:06d}".format(*parts)
        self._path = os.path.join(directory, name)
        self._folder = directory
        self._file = None
        self._size = 0
        self._described = set()

    def append(self, events):
        """Writes events in one piece."""
        is_new = self._file is None
        for event in events:
            for value in event.summary.value:
                # The first description of a tag is the one that counts.
                if value.tag in self._described:
                    value.metadata.ClearField("summary_description")
                self._described.add(value.tag)
        if is_new:
            events = [Event(wall_time=time.time(), file_version="brain.Event:2"), *events]
        records = b"".join(_record(event.SerializeToString()) for event in events)
        files = _files(self._path)
        try:
            if is_new:
                files.makedirs(self._folder)
                self._file = files.create(self._path)
            self._size = files.write(self._file, records, self._size)
        except Exception:
            # What fails while tidying up matters less than what failed first.
            with contextlib.suppress(Exception):
                self._tidy_up(files, is_new)
            raise

    def is_gone(self):
        """Returns whether somebody removed the file, if it is on this machine."""
        is_local = _files(self._path) is _Local
        return is_local and self._file is not None and not os.path.exists(self._path)

    def _tidy_up(self, files, is_new):
        """Leaves no part of a record, and no file without one."""
        if self._file is None:
            return
        with contextlib.suppress(Exception):
            self._file.truncate(self._size)
        with contextlib.suppress(Exception):
            self._file.close()
        if is_new:
            files.remove(self._path)

    def close(self):
        """Closes the file."""
        if self._file is not None:
            self._file.close()


def _record(data):
    """Returns a record as TensorFlow's record files have it."""
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_crc32c(each)) for each in (length, data)]
    return length + checksums[0] + data + checksums[1]


def read_events(directory, largest=None):
    """Yields the events in all files of a directory, oldest file first.

    Args:
        directory: The directory of a run.
        largest: Leaves out events of more bytes than this; None: none.
    """
    files = _files(directory)
    for name in sorted(files.listdir(directory)):
        if ".tfevents." not in name:
            continue
        with files.open(os.path.join(directory, name)) as file:
            while len(header := file.read(12)) == 12:
                (length,) = struct.unpack("<Q", header[:8])
                if largest is not None and length > largest:
                    file.seek(file.tell() + length + 4)
                    continue
                data = file.read(length + 4)
                if len(data) < length + 4:
                    break  # cut short
                try:
                    yield Event.FromString(data[:-4])
                except DecodeError:
                    break  # no event file


def _files(path):
    return _Buckets if "://" in path else _Local


class _Local:
    """Files on this machine, without importing TensorFlow."""

    remove = os.remove

    @staticmethod
    def listdir(directory):
        """Returns the names in a directory; none where there is no directory."""
        return os.listdir(directory) if os.path.isdir(directory) else []

    @staticmethod
    def makedirs(directory):
        os.makedirs(directory, exist_ok=True)

    @staticmethod
    def create(path):
        # Without a buffer: what could not be written is not written later.
        return open(path, "xb", buffering=0)

    @staticmethod
    def write(file, data, size):
        """Writes all data behind the first `size` bytes, and returns the new size."""
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        return size + len(data)

    @staticmethod
    def open(path):
        return open(path, "rb")


class _Buckets:
    """Files that TensorFlow, or TensorBoard without it, opens by their URL."""

    @staticmethod
    def _gfile():
        from tensorboard.compat import tf

        return tf.io.gfile

    @classmethod
    def listdir(cls, directory):
        # Asked once: each question to a bucket that does not answer takes minutes.
        from tensorboard.compat import tf

        try:
            return cls._gfile().listdir(directory)
        except tf.errors.NotFoundError:
            return []

    @classmethod
    def makedirs(cls, directory):
        cls._gfile().makedirs(directory)

    @classmethod
    def remove(cls, path):
        cls._gfile().remove(path)

    @classmethod
    def create(cls, path):
        return cls._gfile().GFile(path, "wb")

    @staticmethod
    def write(file, data, size):
        file.write(data)
        file.flush()
        return size + len(data)

    @classmethod
    def open(cls, path):
        return cls._gfile().GFile(path, "rb")
