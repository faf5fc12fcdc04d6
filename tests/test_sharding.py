"""Heads and examples that are shared out over devices stay where they are."""

import textwrap

import pytest
from common import BACKEND
from fresh_process import run_python

# Eight devices, as two groups of four: examples over the groups, heads inside of each.
SCRIPT = """
    import os
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    import jax, keras, numpy as np
    import keras_sam
    from keras_sam.attention import policy

    assert len(jax.devices()) == 8
    policy.DEFAULT = policy.Policy(kernel="library")
    mesh = keras.distribution.DeviceMesh((2, 4), ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    for name in ("query", "key", "value"):
        layout[".*" + name + ".kernel"] = (None, "model", None)
        layout[".*" + name + ".bias"] = ("model", None)
    layout[".*attention_output.kernel"] = ("model", None, None)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
    layer = keras_sam.SelfAttention(8, key_dim=8, **{options})
    layer.build((4, 16, 24))
    found = [v for v in layer.trainable_variables if "query/kernel" in v.path]
    assert tuple(found[0].value.sharding.spec) == (None, "model", None)
    sharding = jax.sharding.NamedSharding(
        mesh._device_mesh if hasattr(mesh, "_device_mesh") else mesh.backend_mesh,
        jax.sharding.PartitionSpec("batch"),
    )
    x = jax.device_put(np.ones((4, 16, 24), "float32"), sharding)
    call = {{}}
    if {padded}:
        call["mask"] = jax.device_put(np.arange(16) < np.array([[9]] * 4), sharding)
    weights = [v.value for v in layer.trainable_variables]

    def train(weights, x, call):
        def total(weights, x):
            return layer.stateless_call(weights, [], x, **call)[0].sum()
        return jax.grad(total, (0, 1))(weights, x)

    (chosen,) = keras_sam.attention.explain(jax.jit(train).lower, weights, x, call)
    assert chosen.kernel == "library"
    text = jax.jit(train).lower(weights, x, call).compile().as_text()
    assert "f32[2,16,2,8]" in text or "f32[2,2,16,8]" in text  # of one device
    assert "all-reduce" in text  # over the heads, in the projection after them
    for gathering in ("all-gather", "all-to-all", "collective-permute"):
        assert gathering not in text, gathering
"""
CASES = {
    "plain": ({}, False),
    "causal": ({"causal": True}, False),
    "padded": ({}, True),
    "causal and padded": ({"causal": True}, True),
}


@pytest.mark.skipif(BACKEND != "jax", reason="needs JAX")
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_gathered_for_a_library(name, tmp_path):
    options, padded = CASES[name]
    script = textwrap.dedent(SCRIPT).format(options=options, padded=padded)
    run_python("-c", script, cwd=tmp_path, backend="jax")
