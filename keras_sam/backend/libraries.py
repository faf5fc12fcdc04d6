"""Which kernels of other libraries there are on the device at hand."""

import functools
import importlib.util

import keras

from keras_sam.backend.xla import on_cpu

# What cuDNN's flash attention needs: the compute capability of Ampere.
LEAST_CAPABILITY = 8.0


@functools.cache
def attention_library():
    """Returns the library with a kernel of attention, or None.

    Returns:
        `"cudnn"` on JAX with an NVIDIA GPU; `"sdpa"` on PyTorch, which is
        `torch.nn.functional.scaled_dot_product_attention`; None elsewhere.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return "sdpa"
    if backend != "jax" or not _has_cuda() or _cudnn_version() is None:
        return None
    return "cudnn"


def has_fused_kernels():
    """Returns whether Pallas kernels run: on JAX with an NVIDIA GPU, by way of Triton.

    Not where `keras.distribution` shares tensors out over devices: XLA does not know how
    to divide a Pallas kernel, and would gather whole tensors.
    """
    return _has_triton() and keras.distribution.distribution() is None


@functools.cache
def _has_triton():
    if keras.backend.backend() != "jax" or not _has_cuda():
        return False
    # JAX 0.11 says that a later one will not have it.
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None


def _has_cuda():
    import jax

    if on_cpu() or "cuda" not in jax.local_devices()[0].client.platform_version:
        return False
    return float(jax.local_devices()[0].compute_capability) >= LEAST_CAPABILITY


def _cudnn_version():
    """Returns the version of cuDNN, or None: JAX has no public way to ask."""
    try:
        from jax._src.cudnn.fused_attention_stablehlo import check_cudnn_version

        return check_cudnn_version()
    except (ImportError, RuntimeError):
        return None
