"""Cutting attention into tiles: some query rows by some keys.

For kernels that add up over the keys, so that neither a slab of scores nor its gradient
has to leave the second-level cache of a processor. A row of tiles ends where its rows see
no further key, and begins where they see the first::

    all keys            causal              causal, sliding window
    1 1 2 2 3 3 4 4     1 1 . . . . . .     1 1 . . . . . .
    1 1 2 2 3 3 4 4     1 1 . . . . . .     1 1 . . . . . .
    1 1 2 2 3 3 4 4     1 1 2 2 . . . .     1 1 2 2 . . . .
    1 1 2 2 3 3 4 4     1 1 2 2 . . . .     1 1 2 2 . . . .
    1 1 2 2 3 3 4 4     1 1 2 2 3 3 . .     . . 1 1 2 2 . .
    1 1 2 2 3 3 4 4     1 1 2 2 3 3 . .     . . 1 1 2 2 . .
"""

import dataclasses
import functools
from typing import Any

from keras import ops

from keras_sam.ops.attention import both
from keras_sam.ops.compiled import on_cpu
from keras_sam.ops.problem import Problem, Slab, loop
from keras_sam.ops.spans import ceil, larger, plan, smaller

# So many keys a tile has, measured from 128 to 4096: with 512 rows, half a MiB of float32.
KEYS = 256
# Accelerators want few and large products.
KEYS_ON_ACCELERATORS = 4096


@dataclasses.dataclass(frozen=True)
class Tile(Slab):
    """Where a tile is.

    The tile before it has read the keys before `unread`. Of one that is `whole`, no pair is
    masked by its position.
    """

    unread: Any = 0
    whole: bool = False

    def of_key_rows(self, tensor):
        """The keys, from `(B, H, S, depth)`."""
        size = (*self.size[:2], self.size[3], ops.shape(tensor)[3])
        return ops.slice(tensor, (*self.start[:2], self.start[3], 0), size)


class Tiles(Problem):
    """One call of attention, cut into tiles.

    Args:
        tensors: See `Problem`.
        options: `Options`.
    """

    def __init__(self, tensors, options):
        length, self.keys = (ops.shape(tensors[name])[2] for name in ("query", "key"))
        rows, slabs, _ = plan(length, self.keys, options.block_size)
        self.width = smaller(self.keys, KEYS if on_cpu() else KEYS_ON_ACCELERATORS)
        super().__init__(tensors, options, rows, slabs, self.keys)

    def for_each_slab(self, body, carry):
        """Runs `carry = body(slab, carry)` for each slab."""

        def one_lead(lead, carry):
            def one_slab(index, carry):
                size = (*self.lead, self.rows, self.keys)
                return body(Slab((*lead, index * self.rows, 0), size), carry)

            return loop(0, self.slabs, one_slab, carry)

        return self.for_each_lead(one_lead, carry)

    def for_each_tile(self, slab, body, carry):
        """Runs `carry = body(tile, carry)` for each tile that rows of a slab may see.

        First for those that are whole, which need no mask, then for those at an edge.
        """
        first, edge, end = self._span(slab)

        def one_tile(index, carry, whole):
            unread = index * self.width
            start = unread if whole else smaller(unread, self.keys - self.width)
            size = (*slab.size[:3], self.width)
            return body(Tile((*slab.start[:3], start), size, unread, whole), carry)

        carry = loop(first, edge, functools.partial(one_tile, whole=True), carry)
        return loop(edge, end, functools.partial(one_tile, whole=False), carry)

    def _span(self, slab):
        """The first tile that rows of a slab may see, the first at an edge, and the end."""
        first, last = slab.start[2], slab.start[2] + self.rows - 1
        causal, reach = self.options.causal, self.options.sliding_window
        if reach is None:
            seen = smaller(last + 1, self.keys) if causal else self.keys
            by_all = smaller(first + 1, self.keys) if causal else self.keys
            return 0, by_all // self.width, ceil(seen, self.width)
        start = larger(first - reach + 1, 0) // self.width
        seen = smaller(last + 1 if causal else last + reach, self.keys)
        return start, start, ceil(seen, self.width)

    def allowed(self, tile):
        """Which pairs of a tile count, or None for all of them."""
        allowed = super().allowed(tile, by_position=not tile.whole)
        rest = self.keys % self.width
        if tile.whole or (isinstance(rest, int) and rest == 0):
            return allowed
        # The last tile begins early, so that it is as wide as the others.
        return both(allowed, tile.positions(3) >= tile.unread)
