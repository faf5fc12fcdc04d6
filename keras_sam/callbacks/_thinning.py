"""A run with few steps: the first, the last, and evenly spaced ones between them.

TensorBoard keeps ten pictures and ten tables of a tag, chosen by chance. So no more are
written. When there are ten, every second one is dropped: a session start in the event
file tells TensorBoard to forget what it has read of the run, and what is left is written
once more. From then on, steps have to be twice as far apart.
"""

import time

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from keras_sam.callbacks._event_log import event_of, read_events

LIMIT = 10


def thinned(log, name):
    """Returns the run `name` of an `EventLog` as a `ThinnedRun`, one for all users."""
    if name not in log.thinned:
        log.thinned[name] = ThinnedRun(log, name)
    return log.thinned[name]


class ThinnedRun:
    """A run of a log that has at most ten steps.

    Args:
        log: An `EventLog`.
        name: The name of the run below the directory of the log.
    """

    def __init__(self, log, name):
        self._log, self._name = log, name
        self._kept = _read(f"{log.directory}/{name}")
        self._gap = _spacing(self._kept)
        self._started = False

    def wants(self, step):
        """Returns whether a step is far enough from the last one."""
        if not self._kept:
            return True
        if len(self._kept) < LIMIT:
            return step >= max(self._kept) + self._gap
        steps = _halved(self._kept)
        return step >= steps[-1] + _spacing(steps)

    def has(self, step):
        """Returns whether a step was written and is kept."""
        return step in self._kept

    def write(self, values, step):
        """Writes a step; if there are ten already, drops every second one before."""
        if not values:
            return
        kept, events = dict(self._kept), []
        if len(kept) >= LIMIT:
            steps = _halved(kept)
            kept = {each: kept[each] for each in steps}
            events += [_start(steps[0])] + [event_of(kept[each], each) for each in steps]
        elif not self._started:
            # The first one in a file of its own drops nothing.
            events.append(_start(step))
        events.append(event_of(values, step))
        try:
            self._log.append(events, self._name)
        except Exception:
            self._started = False  # the next file is a new one
            raise
        self._started = True
        if len(kept) < len(self._kept):
            self._gap = _spacing(kept)
        self._kept = {**kept, step: values}


def _halved(steps):
    """Returns half of the steps: every second one, or those nearest to even spacing."""
    steps = sorted(steps)
    half = steps[::2]
    gaps = np.diff(half)
    if gaps.max() <= 2 * gaps.min():
        return half
    # Short trainings, one after the other, leave many late steps.
    targets = np.linspace(steps[0], steps[-1], len(half))
    return sorted({min(steps, key=lambda step: abs(step - at)) for at in targets})


def _spacing(steps):
    """Returns the distance between steps that are about evenly spaced, at least 1."""
    steps = sorted(steps)
    return max(1, (steps[-1] - steps[0]) / (len(steps) - 1)) if len(steps) > 1 else 1


def _start(step):
    log = SessionLog(status=SessionLog.START)
    return Event(step=step, wall_time=time.time(), session_log=log)


def _read(directory):
    """Returns the values of the steps that TensorBoard would show of a run."""
    kept, is_first = {}, True
    for event in read_events(directory):
        if event.session_log.status == SessionLog.START:
            if not is_first:
                kept = {step: each for step, each in kept.items() if step < event.step}
            is_first = False
        elif event.summary.value:
            kept.setdefault(event.step, []).extend(event.summary.value)
    return kept
