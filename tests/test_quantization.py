"""int8 and LoRA, which come with Keras's dense layers, and come back from a file."""

import keras
import numpy as np
import pytest
from cases import CASES, everything
from common import numpy

DENSE = (keras.layers.Dense, keras.layers.EinsumDense)


def dense_sublayers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, DENSE)]


WITH_DENSE = tuple(name for name in CASES if dense_sublayers(CASES[name].model()))


def numpy_by_name(results):
    return {name: numpy(result) for name, result in results.items()}


def test_quantized_and_loaded_twice(reload):
    model, arrays = everything(names=WITH_DENSE, block_size=None)
    inputs = arrays(2)
    before = numpy_by_name(model(inputs))
    model.quantize("int8")
    quantized = numpy_by_name(model(inputs))
    for name, found in quantized.items():
        # 127 steps up and down, each rounded by half a step, in four products in a row.
        error = np.abs(found - before[name]).max()
        assert 0 < error < 0.1 * np.abs(before[name]).max(), name
    for _ in range(2):
        assert {layer.quantization_mode for layer in dense_sublayers(model)} == {"int8"}
        model = reload(model)
        for name, found in numpy_by_name(model(inputs)).items():
            np.testing.assert_array_equal(found, quantized[name], name)
    clone = keras.models.clone_model(model)
    assert {layer.quantization_mode for layer in dense_sublayers(clone)} == {"int8"}
    clone.set_weights(model.get_weights())
    for name, found in numpy_by_name(clone(inputs)).items():
        np.testing.assert_array_equal(found, quantized[name], name)


# The file holds merged kernels, so what the optimizer knew of the factors has no place.
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_low_rank_adaptation(reload):
    # Keras's LoRA takes no constraints.
    options = {"block_size": None, "kernel_constraint": None}
    model, arrays = everything(names=WITH_DENSE, **options)
    inputs = arrays(2)
    sublayers = dense_sublayers(model)
    frozen = [numpy(layer.kernel) for layer in sublayers]
    for layer in sublayers:
        layer.enable_lora(2)
    trainable = [weight.name for weight in model.trainable_weights]
    assert trainable.count("lora_kernel_a") == len(sublayers)
    model.compile("adam", "mse", run_eagerly=True)
    targets = {name: 0.3 * y for name, y in numpy_by_name(model(inputs)).items()}
    model.fit(inputs, targets, verbose=0)
    for layer, kernel in zip(sublayers, frozen, strict=True):
        np.testing.assert_array_equal(numpy(layer._kernel), kernel)
        assert (numpy(layer.kernel) != kernel).any(), layer.path
    # The file holds the sum of both, as it is with Keras's own layers.
    loaded = numpy_by_name(reload(model)(inputs))
    for name, expected in numpy_by_name(model(inputs)).items():
        np.testing.assert_allclose(loaded[name], expected, rtol=1e-5, atol=1e-6)
