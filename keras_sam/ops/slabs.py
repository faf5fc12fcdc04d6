"""Cutting attention into slabs, each of which reads all its keys at once.

For kernels that need whole rows of scores, because a normalizer does.
"""

from keras import ops

from keras_sam.ops.problem import Problem, Slab, loop
from keras_sam.ops.spans import plan


class Slabs(Problem):
    """One call of attention, cut into slabs.

    Args:
        tensors: See `Problem`.
        options: `Options`.
        together: Whether all heads go through each slab, or only if they are small.
    """

    def __init__(self, tensors, options, together=False):
        length, keys = (ops.shape(tensors[name])[2] for name in ("query", "key"))
        window = options.sliding_window
        cut = plan(length, keys, options.block_size, options.causal, window)
        rows, slabs, self.groups = cut
        super().__init__(tensors, options, rows, slabs, keys, together)

    def for_each_slab(self, body, carry, reverse=False):
        """Runs `carry, gathered = body(slab, key, value, carry)` for each slab.

        `carry` is a dictionary of tensors. `gathered`, another one, holds parts of the
        gradients of keys and values, which are added to those in `carry`. The slabs of
        some heads come in the order of their rows, or the last one first.
        """

        def one_lead(lead, carry):
            for group in self.groups[::-1] if reverse else self.groups:
                carry = self._one_group(lead, group, body, carry, reverse)
            return carry

        return self.for_each_lead(one_lead, carry)

    def _one_group(self, lead, group, body, carry, reverse):
        size = (*self.lead, self.rows, group.width)

        def place(index):
            slab = group.first + (group.count - 1 - index if reverse else index)
            first_key = 0 if group.start is None else group.start(slab)
            return Slab((*lead, slab * self.rows, first_key), size)

        if group.start is not None:

            def one_slab(index, carry):
                slab = place(index)
                keys = slab.of_keys(self.key), slab.of_keys(self.value)
                carry, gathered = body(slab, *keys, carry)
                add = slab.add_keys
                return {**carry, **{n: add(carry[n], gathered[n]) for n in gathered}}

            return loop(0, group.count, one_slab, carry)

        # All slabs read the same keys: slice them once, gather their gradients apart.
        shared = place(0)
        keys = {n: shared.of_keys(getattr(self, n)) for n in ("key", "value")}
        apart = {n: ops.zeros_like(keys[n]) for n in keys if n in carry}

        def one_slab(index, carry):
            carry, gathered = body(place(index), *keys.values(), carry)
            return {**carry, **{n: carry[n] + gathered[n] for n in gathered}}

        after = loop(0, group.count, one_slab, {**carry, **apart})
        return {**after, **{n: shared.add_keys(carry[n], after[n]) for n in apart}}
