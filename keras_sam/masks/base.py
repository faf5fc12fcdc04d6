"""The base class of masks, and what joins them."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_sam import _validation as check
from keras_sam.masks.pairs import whole_call

# The size of a drawing, and the segments that it has.
DRAWN = 8
DRAWN_SEGMENTS = (0, 0, 0, 1, 1, 1, 2, 2)


class Mask:
    """Which pairs of a query position and a key position count.

    Masks are values: they compare, print, save and draw themselves, and `&`, `|` and `~`
    join them. Your own is a frozen dataclass with one method, registered with Keras:

    >>> import dataclasses, keras, keras_sam
    >>> @keras.saving.register_keras_serializable(package="example")
    ... @dataclasses.dataclass(frozen=True)
    ... class Strided(keras_sam.masks.Mask):
    ...     step: int = 3
    ...
    ...     def allowed(self, pairs):
    ...         return (pairs.query - pairs.key) % self.step == 0
    >>> print(keras_sam.masks.Causal() & Strided())
    1 . . . . . . .
    . 1 . . . . . .
    . . 1 . . . . .
    1 . . 1 . . . .
    . 1 . . 1 . . .
    . . 1 . . 1 . .
    1 . . 1 . . 1 .
    . 1 . . 1 . . 1

    Kernels compute by tiles of some rows and some keys. They skip tiles that are empty, and
    mask no tile that is whole. `any_all` finds both; without one of your own, your pairs
    are looked at one by one, once a call.
    """

    def allowed(self, pairs):
        """Returns which pairs count, a boolean that broadcasts to `(B, H, T, S)`.

        Args:
            pairs: `keras_sam.masks.Pairs`.
        """
        raise NotImplementedError

    def any_all(self, bounds):
        """Returns whether any pair of each tile counts, and whether all pairs do.

        The first may be True, and the second False, where that is not known.

        Args:
            bounds: `keras_sam.masks.Bounds`.

        Returns:
            Two booleans that broadcast to `(B, H, row tiles, key tiles)`.
        """
        return bounds.reduce(self.allowed)

    def reach(self):
        """Returns how many positions a row sees back and ahead of itself at most.

        Either is None where there is no such number, or it depends on the call.
        """
        return None, None

    def as_array(self, query_length, key_length=None, segment_ids=None, query_start=0):
        """Returns all pairs as a NumPy boolean `(T, S)`.

        Args:
            query_length: The number of query rows, `T`.
            key_length: The number of keys, `S`; None is that of the rows.
            segment_ids: None, or the segments of rows and keys, integers `(T,)` or
                `(B, T)`, or a tuple of two such arrays where `S` is not `T`. With an axis
                of examples the result has one as well.
            query_start: The position of the first query row.
        """
        key_length = query_length if key_length is None else key_length
        segments, batched = (None, None), False
        if segment_ids is not None:
            is_pair = isinstance(segment_ids, tuple) and np.ndim(segment_ids[0]) > 0
            both = segment_ids if is_pair else (segment_ids, segment_ids)
            batched = np.ndim(both[0]) == 2
            segments = [np.atleast_2d(np.asarray(x, "int32")) for x in both]
        pairs = whole_call(query_length, key_length, segments, query_start)
        found = keras.ops.convert_to_numpy(self.allowed(pairs))[:, 0]
        found = np.broadcast_to(found, (len(found), query_length, key_length))
        return found if batched else found[0]

    def parts(self):
        """Returns the operands of a combined mask; of any other mask, none."""
        return ()

    @property
    def needs_segments(self):
        """Whether a call needs segments."""
        return any(part.needs_segments for part in self.parts())

    def get_config(self):
        """Returns the fields of the dataclass."""
        if not dataclasses.is_dataclass(self):
            raise NotImplementedError
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __and__(self, other: "Mask") -> "And":
        return And(self, other) if isinstance(other, Mask) else NotImplemented

    def __or__(self, other: "Mask") -> "Or":
        return Or(self, other) if isinstance(other, Mask) else NotImplemented

    def __invert__(self) -> "Mask":
        return Not(self)

    def __str__(self):
        segments = DRAWN_SEGMENTS if self.needs_segments else None
        return draw(self.as_array(DRAWN, segment_ids=segments and list(segments)))

    def _store(self, name, value):
        """Stores a checked field; only the constructor may, the class is frozen."""
        object.__setattr__(self, name, value)


def draw(allowed):
    """Returns a boolean `(T, S)` as lines of text: `1` counts, and `.` does not."""
    return "\n".join(" ".join("1" if pair else "." for pair in row) for row in allowed)


class _Joined(Mask):
    """Two masks in one. A subclass has `_join`, the operation on their booleans."""

    def __post_init__(self):
        for name in ("left", "right"):
            if not isinstance(getattr(self, name), Mask):
                expected = "a keras_sam.masks.Mask"
                raise check.invalid(name, expected, getattr(self, name))

    def allowed(self, pairs):
        return self._join(self.left.allowed(pairs), self.right.allowed(pairs))

    def any_all(self, bounds):
        both = zip(self.left.any_all(bounds), self.right.any_all(bounds), strict=True)
        return tuple(self._join(*x) for x in both)

    def parts(self):
        return self.left, self.right

    def get_config(self):
        parts = {"left": self.left, "right": self.right}
        save = keras.saving.serialize_keras_object
        return {name: save(part) for name, part in parts.items()}

    @classmethod
    def from_config(cls, config):
        load = keras.saving.deserialize_keras_object
        return cls(**{name: load(part) for name, part in config.items()})


@keras.saving.register_keras_serializable(package="keras_sam")
@dataclasses.dataclass(frozen=True)
class And(_Joined):
    """The pairs that two masks both allow: `left & right`.

    Args:
        left: A mask.
        right: A mask.
    """

    left: Mask
    right: Mask

    _join = staticmethod(ops.logical_and)

    def reach(self):
        both = zip(self.left.reach(), self.right.reach(), strict=True)
        return tuple(narrower(*x) for x in both)


@keras.saving.register_keras_serializable(package="keras_sam")
@dataclasses.dataclass(frozen=True)
class Or(_Joined):
    """The pairs that either of two masks allows: `left | right`.

    `&` binds closer than `|`: `Causal() & Window(9) | Global(2)` lets global tokens see
    what comes after them; `Causal() & (Window(9) | Global(2))` does not.

    Args:
        left: A mask.
        right: A mask.
    """

    left: Mask
    right: Mask

    _join = staticmethod(ops.logical_or)

    def reach(self):
        both = zip(self.left.reach(), self.right.reach(), strict=True)
        return tuple(None if None in x else max(x) for x in both)


@keras.saving.register_keras_serializable(package="keras_sam")
@dataclasses.dataclass(frozen=True)
class Not(Mask):
    """The pairs that a mask does not allow: `~mask`.

    Args:
        mask: A mask.
    """

    mask: Mask

    def __post_init__(self):
        if not isinstance(self.mask, Mask):
            raise check.invalid("mask", "a keras_sam.masks.Mask", self.mask)

    def allowed(self, pairs):
        return ops.logical_not(self.mask.allowed(pairs))

    def any_all(self, bounds):
        some, every = self.mask.any_all(bounds)
        return ops.logical_not(every), ops.logical_not(some)

    def parts(self):
        return (self.mask,)

    def get_config(self):
        return {"mask": keras.saving.serialize_keras_object(self.mask)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["mask"]))


def narrower(one, other):
    """Returns the smaller of two reaches, where None is without end."""
    known = [reach for reach in (one, other) if reach is not None]
    return min(known) if known else None
