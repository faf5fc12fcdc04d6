"""Which kernel answers a request, and in blocks of which sizes.

This is the one place of such decisions, and every measured constant stands here with its
number. A new kernel is a file and a row in `KERNELS`; tests choose with the arguments of
`Policy`. Unless said otherwise, times are of two cores of a server with AVX-512.
"""

import dataclasses

from keras_sam.attention import (
    chunked,
    dense,
    flash,
    library,
    pallas,
    reference,
    selective,
)
from keras_sam.attention.blocks import MIN_ROWS, Blocks
from keras_sam.attention.plan import Plan
from keras_sam.attention.request import Traits
from keras_sam.attention.tile_share import tile_share

# The modules with `passes(request, plan)`; `library` has a gradient of its own.
KERNELS = {
    "reference": reference,
    "dense": dense,
    "chunked": chunked,
    "flash": flash,
    "selective": selective,
    "pallas": pallas,
}
# Kernels that multiply numbers as narrow as they come, and know heads that share keys.
FUSED = ("library", "pallas")


@dataclasses.dataclass(frozen=True)
class Policy:
    """The constants of all decisions, and the decisions.

    Args:
        kept_pairs: Softmax of dot products keeps its weights up to so many pairs, 32 MiB
            of float32. That takes 0.82 to 0.98 of Keras's time in training; computing
            them again takes 1.02 to 1.12. With 128 MiB a server of 8 threads needs 50 MiB
            more.
        kept_for_a_channel: It also keeps at most so many weights of a row for each channel
            of a head: the row keeps as much anyway, its query, key, value and output.
        autodiff_pairs: Other requests are differentiated by the backend up to so many
            pairs, 16 MiB of float32; several tensors as large are kept.
        compiled_pairs: From so many pairs of a head on, softmax of dot products is
            compiled by XLA, where lengths are known. In training it takes 0.90 of Keras's
            time at T = 4096, 1.0 at 1500, and 1.5 to 2 times its time at 300 to 400.
        compiled_others: The same for other scores and normalizers.
        graph_pairs: The pairs of a block that is not compiled, 4 MiB of float32. With a
            quarter of it, training takes 1.2 to 1.6 times as long.
        flash_rows: The rows of a tile of dot products, measured from 64 to 1024.
        flash_rows_at_an_edge: The same with causality or a window, where a row of tiles
            reads what any of its rows sees.
        flash_keys: The keys of a tile, measured from 128 to 4096: half a MiB of float32.
        flash_parts: By the number that both sides of a tile at an edge may be divided by,
            the cost of a pair in it. Which is taken follows from the tiles of the mask, if
            they are known; see `tile_share`. Training, T = 4096: all pairs of `Prefix(512)`
            took 1.03 times the time of a pair without a mask in tiles of 256 x 256, 1.14 in
            128 x 128; `Window(256) | Global(16)` took 1.10, 1.24 and, in 64 x 64, 1.58.
            128 x 64 and 64 x 128 were no faster.
        chunked_rows: The rows of a compiled block of dot products; see `flash_rows`.
        pairs: The pairs of a compiled block of other scores, 2 MiB of float32.
        pairs_backward: The same for the backward pass, which keeps several tensors as
            large. Both measured for additive scores.
        accelerator_pairs: The pairs of a block on an accelerator without a kernel of its
            own (TensorFlow; biases and dropout on JAX), which wants few and large products:
            512 MiB of float32, of which three are there at a time. On an H200, 4 x 8 heads
            of 4096 x 4096 trained in 4.9 ms as one tile (6 GiB), in 7.2 as tiles of 512 MiB
            with 1024 keys, and in 9.0 as tiles of 32 MiB. On TensorFlow nothing of this is
            measured.
        accelerator_keys: The keys of a tile on an accelerator: all of them, mostly. With
            one tile of keys nothing is summed up anew for each.
        selective_pairs: The pairs of a block of selective attention.
        library_masked_pairs: PyTorch gets a mask of at most so many pairs, 256 MiB.
        fused_pairs: Pallas kernels run from so many pairs of a head on. Not measured.
        kernel: The name of the kernel, whatever would be chosen; for tests.
        compiled: Whether kernels are compiled, whatever would be chosen; for tests.
    """

    kept_pairs: int = 2**23
    kept_for_a_channel: int = 4
    autodiff_pairs: int = 2**22
    compiled_pairs: int = 2**20
    compiled_others: int = 2**16
    graph_pairs: int = 2**20
    flash_rows: int = 512
    flash_rows_at_an_edge: int = 256
    flash_keys: int = 256
    flash_parts: tuple = ((1, 1.0), (2, 1.15), (4, 1.5))
    chunked_rows: int = 512
    pairs: int = 2**19
    pairs_backward: int = 2**17
    accelerator_pairs: int = 2**27
    accelerator_keys: int = 2**15
    selective_pairs: int = 2**19
    library_masked_pairs: int = 2**28
    fused_pairs: int = 2**18
    kernel: str | None = None
    compiled: bool | None = None

    def choose(self, request, sizes, device, block_size="auto", traits=None):
        """Returns the `Plan` of a call.

        Args:
            request: `Request`.
            sizes: `Sizes`; those that are no integers are unknown yet.
            device: `plan.Device`.
            block_size: `"auto"`, the number of rows of a block, or None for all rows at
                once.
            traits: `Traits`; None are those of a call in float32 without masks.
        """
        if block_size is None or _is_empty(sizes):
            return Plan("reference", reason="all rows at once are asked for, or none")
        traits = traits or Traits(value_depth=sizes.depth)
        fused, reason = self._fused(request, sizes, device, block_size, traits)
        if fused is not None:
            return Plan(fused, narrow=True, reason=reason)
        plan = self._looped(request, sizes, device, block_size, traits)
        # Other scores have steps of their own, which want to be wide.
        narrow = device.backend == "jax" and not device.cpu and not request.selective
        narrow = narrow and request.score.is_dot_product and request.is_bare
        return dataclasses.replace(plan, narrow=narrow, reason=reason)

    def _fused(self, request, sizes, device, block_size, traits):
        """Returns the fused kernel, or None, and why those before it are not taken."""
        if self.kernel in FUSED:
            return self.kernel, "this kernel is asked for"
        if self.kernel is not None or block_size != "auto":
            return None, "a kernel or a block size is asked for"
        if device.backend == "jax" and not _are_known(sizes):  # as in `jax.export`
            return None, "fused kernels need known sizes"
        given = request, sizes, device, traits
        against_library = library.objection(*given, self)
        if against_library is None:
            return "library", f"{device.library} computes the same"
        against_pallas = pallas.objection(*given, self)
        if against_pallas is None:
            return "pallas", against_library
        return None, f"{against_library}; {against_pallas}"

    def _looped(self, request, sizes, device, block_size, traits):
        """Returns the plan of a kernel made of the backend's own operations."""
        softmax = request.is_softmax_of_dot_products
        few_kernel = "dense" if softmax else "reference"
        few_pairs = self._few_pairs(request, sizes, device)
        if block_size != "auto":
            few_pairs = 0
        elif self.kernel is None and self._are_few(sizes, few_pairs, softmax):
            # Compiled, other scores are several times as fast, however few they are.
            compiled = self._is_compiled(request, sizes, device, block_size)
            if softmax or not compiled:
                return Plan(few_kernel)
        plan = self._large(request, sizes, device, block_size, traits)
        unknown = not _are_known(sizes)
        if unknown and few_pairs and not plan.compiled and self.kernel is None:
            plan = dataclasses.replace(plan, few_kernel=few_kernel, few_pairs=few_pairs)
        return plan

    def choose_sums(self, request, sizes, device):
        """Returns the `Plan` of the column sums of weights; see `column_sums`."""
        few = self._are_few(sizes, self.autodiff_pairs, softmax=False)
        if self.kernel == "reference" or _is_empty(sizes) or (few and not self.kernel):
            return Plan("reference")
        compiled = self._is_compiled(request, sizes, device, "auto")
        together = not request.score.is_dot_product
        pairs = self.graph_pairs if device.cpu else self.accelerator_pairs
        in_place = compiled or device.backend != "tensorflow"
        blocks = Blocks(pairs, None, together, in_place=in_place)
        return Plan("column_sums", blocks, compiled=compiled)

    def _few_pairs(self, request, sizes, device):
        if not request.is_softmax_of_dot_products or not device.cpu:
            return self.autodiff_pairs
        return self.kept_pairs if device.backend == "tensorflow" else self.autodiff_pairs

    def _are_few(self, sizes, few_pairs, softmax):
        """Returns whether the pairs are known to be few."""
        batch, heads, rows, keys, depth = sizes
        lengths_are_known = isinstance(rows, int) and isinstance(keys, int)
        if softmax and lengths_are_known and keys <= self.kept_for_a_channel * depth:
            return True
        known = lengths_are_known and isinstance(batch, int)
        return known and batch * heads * rows * keys <= few_pairs

    def _large(self, request, sizes, device, block_size, traits):
        """Returns the plan of a call of many pairs."""
        compiled = self._is_compiled(request, sizes, device, block_size)
        kernel = self.kernel or self._kernel(request, device, compiled)
        blocks = self._blocks(kernel, request, device, compiled, block_size)
        if kernel == "flash" and device.cpu and block_size == "auto" and traits.in_a_row:
            blocks = self._parts(blocks, request.positions, sizes)
        back = None
        if kernel == "chunked" and compiled and blocks.together and device.cpu:
            back = dataclasses.replace(blocks, pairs=self.pairs_backward)
        shared_out = compiled and device.backend == "tensorflow" and device.cpu
        cores = shared_out and request.score.is_dot_product and device.cores > 1
        return Plan(
            kernel,
            blocks,
            back,
            compiled=compiled,
            cores=cores and kernel != "selective",
            one_by_one=shared_out,
            any_sizes=device.backend == "tensorflow" and not compiled,
        )

    def _kernel(self, request, device, compiled):
        if request.selective:
            return "selective"
        if not request.has_tiles:
            return "chunked"
        return "flash" if compiled or device.backend == "jax" else "chunked"

    def _is_compiled(self, request, sizes, device, block_size):
        """Returns whether XLA compiles the kernel: if lengths are known, and it pays.

        Never in eager calls, which come in many lengths: each costs seconds.
        """
        if device.backend != "tensorflow":
            return False
        if self.compiled is not None:
            return self.compiled
        lengths_are_known = isinstance(sizes.rows, int) and isinstance(sizes.keys, int)
        if device.eager or not lengths_are_known:
            return False
        if block_size != "auto":
            return True
        softmax = request.is_softmax_of_dot_products
        least = self.compiled_pairs if softmax else self.compiled_others
        return sizes.rows * sizes.keys >= least

    def _blocks(self, kernel, request, device, compiled, block_size):
        rows = None if block_size == "auto" else block_size
        together = not request.score.is_dot_product or kernel == "selective"
        if kernel == "flash":
            edge = not request.positions.allow_all
            best = self.flash_rows_at_an_edge if edge else self.flash_rows
            if device.cpu:
                rows = rows or best
                return Blocks(rows * self.flash_keys, rows, keys=self.flash_keys)
            return Blocks(self.accelerator_pairs, rows, keys=self.accelerator_keys)
        plain = device.backend == "tensorflow" and not compiled
        if kernel == "selective":
            pairs = self.selective_pairs
        elif not device.cpu:
            pairs = self.accelerator_pairs
        elif plain:
            pairs = self.graph_pairs
        else:
            pairs = self.pairs
            rows = rows or (None if together else self.chunked_rows)
        return Blocks(pairs, rows, together, in_place=not plain)

    def _parts(self, blocks, positions, sizes):
        """Returns tiles of the size that costs least with the mask of a call."""
        lengths = sizes.rows, sizes.keys
        if positions.allow_all or not _are_known(lengths):
            return blocks
        costs = {}
        for parts, cost in self.flash_parts:
            rows, keys = blocks.rows // parts, blocks.keys // parts
            if min(rows, keys) < MIN_ROWS:
                continue
            share = tile_share(positions, *lengths, rows, keys)
            if share is not None:
                costs[Blocks(rows * keys, rows, keys=keys)] = share * cost
        return min(costs, key=costs.get, default=blocks)


DEFAULT = Policy()


def _are_known(sizes):
    return all(isinstance(size, int) for size in sizes)


def _is_empty(sizes):
    return any(isinstance(size, int) and size == 0 for size in sizes)


def passes(request, plan):
    """Returns the forward and the backward pass of a plan."""
    return KERNELS[plan.kernel].passes(request.without_weights(), plan)
