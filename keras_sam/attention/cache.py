"""The tensors of a cache, and the slot of each position in them.

::

    full     position p is in slot p                    S slots, for any causal mask
    ring     position p is in slot p mod S              S = reach + 1, for masks that see
                                                        `reach` positions back

    budget   any position in any     S = memory_budget, where attention is selective

    ring of 4, after position 5      slot        0  1  2  3
                                     position    4  5  2  3

A step has `T` rows for each example, at the positions `start, start + 1, ...`, and each
example may have a start of its own. Rows that are padding, and rows at negative positions,
are never written: what is in their slots stays, or counts as empty.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_sam import _validation as check

EMPTY = -1  # the position of an empty slot
NAMES = "keys_values", "positions", "segments", "selected", "first", "kept"
LATEST = 2**30  # later than all positions


class Cache(NamedTuple):
    """What one layer remembers.

    Args:
        keys_values: `(B, 2, S, key heads, D)`: keys, and values.
        positions: Integers `(B, S)`, the position of the key in each slot, or `EMPTY`; or
            None, if all rows are written and no slot has to be looked up.
        segments: Integers `(B, S)`, the segments of the keys, or None.
        selected: `(B, S)`, what all rows so far take off each key; see `selective`. None
            where attention is not selective.
        first: Integers `(B,)`, the first position that is not padding, or None.
        kept: Integers `(B, S)`, the position of the key in each slot, or `EMPTY`, where
            positions have no slots of their own but compete for them; see `budget`.
    """

    keys_values: Any
    positions: Any = None
    segments: Any = None
    selected: Any = None
    first: Any = None
    kept: Any = None

    @classmethod
    def of(cls, given):
        """Takes a tensor, or a dictionary of tensors."""
        return cls(**given) if isinstance(given, dict) else cls(given)

    def given(self):
        """Returns the tensor if there is one only, or else a dictionary of tensors."""
        found = {name: x for name, x in self._asdict().items() if x is not None}
        return self.keys_values if len(found) == 1 else found


def specs(batch, slots, heads, depth, dtype, padding, segments, selective, budget=False):
    """Returns the shape and the dtype of each tensor of a new cache, as a `Cache`.

    Args:
        batch: The number of examples.
        slots: The number of slots.
        heads: The number of heads of keys.
        depth: The channels of a head.
        dtype: The dtype of keys and values.
        padding: Whether it remembers which slots are empty.
        segments: Whether it remembers segments.
        selective: Whether it remembers what is selected.
        budget: Whether positions compete for the slots.
    """
    of_slots = (batch, slots)
    return Cache(
        ((batch, 2, slots, heads, depth), dtype),
        (of_slots, "int32") if padding and not budget else None,
        (of_slots, "int32") if segments else None,
        (of_slots, "float32") if selective else None,
        ((batch,), "int32") if selective and (padding or budget) else None,
        (of_slots, "int32") if budget else None,
    )


def empty(wanted):
    """Returns a `Cache` of tensors from `specs`."""
    fill = {"positions": EMPTY, "first": LATEST, "kept": EMPTY}
    made = {
        name: ops.full(found[0], fill.get(name, 0), dtype=found[1])
        for name, found in wanted._asdict().items()
        if found is not None
    }
    return Cache(**made)


class Step:
    """Where the new rows of one step are, and the slots that they go to.

    Args:
        index: The position of the first row: an integer, or an integer tensor of shape
            `()` or `(B,)`.
        rows: The number of rows, `T`.
        slots: The number of slots, `S`.
        ring: Whether the slots are a ring.
        mask: Boolean `(B, T)`, False for rows that are padding, or None.

    Attributes:
        start: `(1,)` or `(B,)`, the position of the first row.
        query_positions: `(1 or B, T)`; those of padding are negative.
    """

    def __init__(self, index, rows, slots, ring, mask=None):
        self.index, self.rows, self.slots, self.ring = index, rows, slots, ring
        index = ops.cast(ops.convert_to_tensor(index), "int32")
        self.by_example = len(index.shape) == 1
        self.start = index if self.by_example else ops.reshape(index, (1,))
        at = self.start[:, None] + ops.arange(rows, dtype="int32")[None]
        if mask is not None:
            at = ops.where(mask, at, EMPTY)
        self.query_positions = at
        self.mask = mask

    @property
    def is_first(self):
        """Whether the rows are known to be the first ones."""
        return isinstance(self.index, int) and self.index == 0

    @property
    def overwrites_nothing_read(self):
        """Whether the new rows may be written before they attend."""
        return not self.ring or (isinstance(self.rows, int) and self.rows == 1)

    @property
    def surely_fits(self):
        """Whether it is known already that there is a slot for each row."""
        return self.ring or isinstance(self.index, int)

    def fits(self):
        """Returns whether there is a slot for each row of each example, `(1 or B, 1)`."""
        return self._last < self.slots

    def positions_before(self, remembered=None):
        """Returns the position in each slot before the step, `(1 or B, S)`.

        Args:
            remembered: `Cache.positions`, which are then these, less what is at or after
                the first row.
        """
        if remembered is not None:
            return ops.where(remembered < self.start[:, None], remembered, EMPTY)
        before = self._slots_up_to(self.start[:, None] - 1)
        return ops.where(before < self.start[:, None], before, EMPTY)

    def positions_after(self, remembered=None):
        """Returns the position in each slot after the step, `(1 or B, S)`.

        Those of a full cache that are still empty lie behind all rows, which see nothing
        there.
        """
        if remembered is None:
            return self._slots_up_to(self._last)
        before = self.positions_before(remembered)
        return self._choose(self.query_positions, before)

    def write(self, tensor, new):
        """Returns a tensor with slots, in which the new rows are.

        Args:
            tensor: `(B, 2, S, heads, D)`, or `(B, S)`.
            new: `(B, 2, T, heads, D)`, or `(B or 1, T)`.
        """
        if self.by_example or not self.overwrites_nothing_read:
            return self._choose(new, tensor)
        at = self.start[0] if not isinstance(self.index, int) else self.index
        at = at % self.slots if self.ring else at
        is_wide = len(tensor.shape) == 5
        if not is_wide:
            new = ops.broadcast_to(new, (ops.shape(tensor)[0], self.rows))
        at = (0, 0, at, 0, 0) if is_wide else (0, at)
        if self.mask is not None:  # what is not written stays
            mask = self.mask[:, None, :, None, None] if is_wide else self.mask
            new = ops.where(mask, new, ops.slice(tensor, at, ops.shape(new)))
        return ops.slice_update(tensor, at, new)

    @property
    def _last(self):
        """The last position that is not padding, `(1 or B, 1)`."""
        if self.mask is None:
            return self.start[:, None] + (self.rows - 1)
        last = ops.max(self.query_positions, axis=1, keepdims=True)
        return ops.maximum(last, self.start[:, None] - 1)

    def _slots_up_to(self, last):
        """Returns the position that belongs into each slot, given the last one."""
        slots = ops.arange(self.slots, dtype="int32")[None]
        return last - (last - slots) % self.slots if self.ring else slots

    def _choose(self, new, old):
        """Returns new rows in the slots that they go to, and what was there elsewhere."""
        wanted = self._slots_up_to(self._last)  # (1 or B, S)
        row = wanted - self.start[:, None]
        inside = ops.logical_and(row >= 0, row < self.rows)
        inside = ops.logical_and(inside, wanted >= 0)
        row = ops.clip(row, 0, self.rows - 1)
        if self.mask is not None:
            row = ops.broadcast_to(row, (ops.shape(self.mask)[0], self.slots))
            real = ops.take_along_axis(ops.cast(self.mask, "int32"), row, axis=1)
            inside = ops.logical_and(inside, real > 0)
        is_wide = len(new.shape) == 5
        if not (isinstance(self.rows, int) and self.rows == 1):
            if row.shape[0] == 1:  # the same rows of all examples
                new = ops.take(new, row[0], axis=2 if is_wide else 1)
            else:
                at = row[:, None, :, None, None] if is_wide else row
                new = ops.take_along_axis(new, at, axis=2 if is_wide else 1)
        inside = inside[:, None, :, None, None] if is_wide else inside
        return ops.where(inside, new, old)


def check_room(index, rows, slots, ring, where):
    """Refuses more rows than a cache has slots, where the index is a Python integer.

    Args:
        index: See `Step`.
        rows: See `Step`.
        slots: See `Step`.
        ring: See `Step`.
        where: The layer, for the message.
    """
    if not check.is_integer(index):
        return
    if index < 0:
        expected = f"a position, which is not negative, in {where}"
        raise check.invalid("cache_update_index", expected, int(index))
    if not ring and isinstance(rows, int) and index + rows > slots:
        raise ValueError(
            f"`cache_update_index` must leave room for {rows} more positions in a cache of "
            f"{slots}, in {where}. Received: cache_update_index={int(index)}"
        )
