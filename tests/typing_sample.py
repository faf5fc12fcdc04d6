"""A user's program, as a type checker sees it. It is checked, not run.

    mypy tests/typing_sample.py

A line that ends in `# type: ignore[...]` is a mistake that has to be found: mypy
complains where one is not.
"""

from pathlib import Path

import keras

import keras_sam
import keras_sam.addons
from keras_sam import darknet, masks, normalizers, scores
from keras_sam.callbacks import AttentionTensorBoard

# Layers.

keras_sam.SelfAttention(4, score="additive", normalizer="entmax", causal=True)
keras_sam.SelfAttention(
    num_heads=4,
    key_dim=16,
    score=[scores.QKNorm(), scores.Rotary(), "scaled_dot", scores.SoftCap(50.0)],
    normalizer=normalizers.Entmax(1.5),
    mask=masks.Causal() & (masks.Window(256) | ~masks.Global(16)),
    kernel_initializer=keras.initializers.HeNormal(),
    block_size=None,
    name="read",
)
keras_sam.CrossAttention(2, num_key_value_heads=1, dropout=0.1)
keras_sam.UnprojectedAttention(scores.TanhSum())
keras_sam.SelectiveAttention(num_heads=2, top_k=0.1, axis=-1, pool=False)
keras_sam.SpatialAttention(kernel_size=(3, 5), normalizer="softmax")
keras_sam.PointwiseSpatialAttention(use_batch_norm=True)
keras_sam.SpatialGate(activation="relu", broadcast=True)
keras_sam.ChannelAttention(pooling="mean", activation=keras.activations.relu)
keras_sam.CBAM(reduction=4, order=("spatial", "channel"))

keras_sam.SelfAttention("4")  # type: ignore[arg-type]
keras_sam.SelfAttention(4, causal="yes")  # type: ignore[arg-type]
keras_sam.SelfAttention(4, mask=4)  # type: ignore[arg-type]
keras_sam.CrossAttention()  # type: ignore[call-arg]
keras_sam.SelectiveAttention(relation=3)  # type: ignore[arg-type]
scores.Rotary(fraction="half")  # type: ignore[arg-type]
masks.Window("4")  # type: ignore[arg-type]
masks.Causal() & 4  # type: ignore[operator]

# Functions.

x = keras.ops.ones((2, 4, 6, 8))
keras_sam.attend(x, x, x, causal=True, sliding_window=4, pattern=masks.Prefix(2))
keras_sam.attend(x, x, x, sliding_window="4")  # type: ignore[arg-type]

inputs = keras.Input((None, 16))
model = keras.Model(inputs, keras_sam.SelfAttention(2)(inputs))
with keras_sam.record_attention(max_entries=1000) as maps:
    model(keras.ops.ones((1, 5, 16)))
kinds: list[str] = [maps.details[path].kind for path in maps]
numbers: list[int] = [maps.details[path].kind for path in maps]  # type: ignore[misc]

page = keras_sam.show(maps, tokens=[["a", "b"]], path=Path("page.html"))
length: int = len(page.text)
keras_sam.convert(model, to="keras")
keras_sam.export_saved_model(model, Path("served"), verbose=False)
keras_sam.export_onnx(model, "model.onnx", opset_version=17)
keras_sam.export_litert(model, "model.tflite")
keras_sam.export_litert(model, 3)  # type: ignore[arg-type]
AttentionTensorBoard("logs", x, update_freq=10, write_images=False)
AttentionTensorBoard(3, x)  # type: ignore[arg-type]

decode = keras_sam.Decoder(model, check=False)
decode.generate([[3, 1, 4]], max_length=8, sampler=keras_sam.samplers.TopK(k=3))
decode.make_cache(batch=1, length="8")  # type: ignore[arg-type]

names: list[str] = darknet.read_names("coco.names")
network = darknet.load_model("yolov4.cfg", Path("yolov4.weights"), partial=True)
darknet.decode(network(x), network, image_size=(576, 768), names=names)
darknet.build_model("[net]\n", cutoff="29")  # type: ignore[arg-type]
keras_sam.addons.load_model("legacy.h5")
