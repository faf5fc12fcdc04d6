"""Where a call of attention runs, and how it is computed."""

import dataclasses

import keras

from keras_sam.attention.blocks import Blocks
from keras_sam.backend import libraries
from keras_sam.backend.cores import processors
from keras_sam.backend.xla import on_cpu, runs_eagerly


@dataclasses.dataclass(frozen=True)
class Device:
    """Where a call runs.

    Args:
        backend: `"tensorflow"`, `"jax"` or `"torch"`.
        cpu: Whether tensors are on a CPU, and not on an accelerator.
        eager: Whether each operation runs at once.
        cores: The number of compiled functions that can run at the same time.
        library: The library with a kernel of attention, `"cudnn"`, `"sdpa"` or None.
        fused: Whether Pallas kernels run.
    """

    backend: str
    cpu: bool
    eager: bool
    cores: int
    library: str | None = None
    fused: bool = False

    @classmethod
    def current(cls):
        """Returns the device of the call that is being made."""
        backend = keras.backend.backend()
        library = libraries.attention_library()
        fused = libraries.has_fused_kernels()
        return cls(backend, on_cpu(), runs_eagerly(), processors(), library, fused)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a call is computed.

    Args:
        kernel: A name in `policy.KERNELS`.
        blocks: `Blocks`, where the kernel has any.
        blocks_backward: `Blocks` for the backward pass, if they differ.
        compiled: Whether XLA compiles the kernel by itself, on TensorFlow.
        cores: Whether the heads are shared out over the cores.
        one_by_one: Whether one example follows the other.
        few_kernel: The kernel for calls of at most `few_pairs` pairs of a row and a key,
            if that is decided when the call runs, because sizes are unknown before.
        few_pairs: See there.
        any_sizes: Whether one graph is traced for all sizes, in eager calls.
        narrow: Whether products take float16 and bfloat16 as they are, and only sums are
            wider. On a CPU, which has no such products, everything is float32.
        reason: Why other kernels are not taken, for `explain`.
    """

    kernel: str
    blocks: Blocks | None = None
    blocks_backward: Blocks | None = None
    compiled: bool = False
    cores: bool = False
    one_by_one: bool = False
    few_kernel: str | None = None
    few_pairs: int = 0
    any_sizes: bool = False
    narrow: bool = False
    reason: str = dataclasses.field(default="", compare=False)

    def explained(self):
        """Returns the reason, with what is left to be decided when the call runs."""
        if self.few_kernel is None:
            return self.reason
        rest = f"{self.few_kernel} instead where there are at most {self.few_pairs} pairs"
        return f"{self.reason}; {rest}"
