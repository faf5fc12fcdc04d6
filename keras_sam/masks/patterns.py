"""Masks by position alone."""

import dataclasses

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.masks.base import Mask

register = keras.saving.register_keras_serializable(package="keras_sam")


@register
@dataclasses.dataclass(frozen=True)
class Causal(Mask):
    """A row sees itself and what comes before it.

    ::

        allowed(i, j) = j <= i                    aligned at the start
        allowed(i, j) = j <= i + S - T            aligned at the end

        start        end          start (T < S)     end (T < S)
        1 . . .      1 . . .      1 . . . .         1 1 1 . .
        1 1 . .      1 1 . .      1 1 . . .         1 1 1 1 .
        1 1 1 .      1 1 1 .      1 1 1 . .         1 1 1 1 1
        1 1 1 1      1 1 1 1

    Args:
        align: `"start"`, or `"end"`, where the last row sees all keys. They differ where
            there are more keys than rows, or fewer.

    Example:

    >>> import keras_sam
    >>> keras_sam.masks.Causal().as_array(2).tolist()
    [[True, False], [True, True]]

    Reference: [Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.2.3.
    """

    align: str = "start"

    def __post_init__(self):
        check.one_of("align", self.align, ("start", "end"))

    def allowed(self, pairs):
        return pairs.key <= pairs.query + self._ahead(pairs)

    def any_all(self, bounds):
        (first, last), (first_key, last_key) = bounds.query, bounds.key
        ahead = self._ahead(bounds)
        return first_key <= last + ahead, last_key <= first + ahead

    def reach(self):
        return None, (0 if self.align == "start" else None)

    def _ahead(self, call):
        return 0 if self.align == "start" else call.key_length - call.query_length


@register
@dataclasses.dataclass(frozen=True)
class Window(Mask):
    """A row sees what is less than `size` positions away, before and after it.

    ::

        allowed(i, j) = |i - j| < size

        Window(2)      Causal() & Window(2)
        1 1 . . .      1 . . . .
        1 1 1 . .      1 1 . . .
        . 1 1 1 .      . 1 1 . .
        . . 1 1 1      . . 1 1 .
        . . . 1 1      . . . 1 1

    Args:
        size: A positive integer.

    Example:

    >>> import keras_sam
    >>> keras_sam.masks.Window(1).as_array(2).tolist()
    [[True, False], [False, True]]

    Reference: [Beltagy et al. 2020](https://arxiv.org/abs/2004.05150) (Longformer),
    section 3.1.
    """

    size: int

    def __post_init__(self):
        self._store("size", check.positive_integer("size", self.size))

    def allowed(self, pairs):
        return ops.abs(pairs.query - pairs.key) < self.size

    def any_all(self, bounds):
        (first, last), (first_key, last_key) = bounds.query, bounds.key
        nearest = ops.maximum(first_key - last, first - last_key)  # below 0: they overlap
        farthest = ops.maximum(last_key - first, last - first_key)
        return nearest < self.size, farthest < self.size

    def reach(self):
        return self.size - 1, self.size - 1


@register
@dataclasses.dataclass(frozen=True)
class Prefix(Mask):
    """The first positions see one another; those after them see what comes before them.

    ::

        allowed(i, j) = j <= i  or  j < length

        Prefix(3)
        1 1 1 . .
        1 1 1 . .
        1 1 1 . .
        1 1 1 1 .
        1 1 1 1 1

    Args:
        length: The number of the first positions, such as those of a prompt.

    Example:

    >>> import keras_sam
    >>> keras_sam.masks.Prefix(2).as_array(3).tolist()
    [[True, True, False], [True, True, False], [True, True, True]]

    Reference: [Raffel et al. 2020](https://arxiv.org/abs/1910.10683) (T5), section 3.2.1.
    """

    length: int

    def __post_init__(self):
        self._store("length", check.positive_integer("length", self.length))

    def allowed(self, pairs):
        return ops.logical_or(pairs.key <= pairs.query, pairs.key < self.length)

    def any_all(self, bounds):
        (first, last), (first_key, last_key) = bounds.query, bounds.key
        some = ops.logical_or(first_key <= last, first_key < self.length)
        return some, ops.logical_or(last_key <= first, last_key < self.length)


@register
@dataclasses.dataclass(frozen=True)
class Global(Mask):
    """The first positions see all, and are seen by all.

    ::

        allowed(i, j) = i < count  or  j < count

        Global(1)      Window(2) | Global(1)
        1 1 1 1 1      1 1 1 1 1
        1 . . . .      1 1 1 . .
        1 . . . .      1 1 1 1 .
        1 . . . .      1 . 1 1 1
        1 . . . .      1 . . 1 1

    Args:
        count: The number of the first positions.

    Example:

    >>> import keras_sam
    >>> keras_sam.masks.Global(1).as_array(2).tolist()
    [[True, True], [True, False]]

    References: [Beltagy et al. 2020](https://arxiv.org/abs/2004.05150) (Longformer),
    section 3.1; [Zaheer et al. 2020](https://arxiv.org/abs/2007.14062) (BigBird),
    section 2.
    """

    count: int

    def __post_init__(self):
        self._store("count", check.positive_integer("count", self.count))

    def allowed(self, pairs):
        return ops.logical_or(pairs.query < self.count, pairs.key < self.count)

    def any_all(self, bounds):
        (first, last), (first_key, last_key) = bounds.query, bounds.key
        some = ops.logical_or(first < self.count, first_key < self.count)
        return some, ops.logical_or(last < self.count, last_key < self.count)


@register
@dataclasses.dataclass(frozen=True)
class Dilated(Mask):
    """A row sees every `step`-th position, counted from itself.

    ::

        allowed(i, j) = (i - j) mod step = 0

        Dilated(2)     Dilated(2) & Window(4)
        1 . 1 . 1      1 . 1 . .
        . 1 . 1 .      . 1 . 1 .
        1 . 1 . 1      1 . 1 . 1
        . 1 . 1 .      . 1 . 1 .
        1 . 1 . 1      . . 1 . 1

    Only tiles of fewer than `step` pairs of rows and keys could be skipped, so it makes
    nothing faster, unless a window does.

    Args:
        step: A positive integer.

    Example:

    >>> import keras_sam
    >>> keras_sam.masks.Dilated(2).as_array(2).tolist()
    [[True, False], [False, True]]

    References: [Beltagy et al. 2020](https://arxiv.org/abs/2004.05150) (Longformer),
    section 3.1; [Child et al. 2019](https://arxiv.org/abs/1904.10509), section 4.
    """

    step: int

    def __post_init__(self):
        self._store("step", check.positive_integer("step", self.step))

    def allowed(self, pairs):
        return (pairs.query - pairs.key) % self.step == 0

    def any_all(self, bounds):
        (first, last), (first_key, last_key) = bounds.query, bounds.key
        least, most = first - last_key, last - first_key
        multiple = most - most % self.step  # the last one up to the largest distance
        every = ops.logical_and(least == most, least % self.step == 0)
        return multiple >= least, ops.logical_or(every, self.step == 1)
