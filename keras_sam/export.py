"""SavedModels that can be asked what they looked at, and models for ONNX and LiteRT."""

import importlib.util
import os
import tempfile

import keras

from keras_sam._signatures import input_signature as signature_of
from keras_sam.backend.portable import portable
from keras_sam.recording import record_attention


def export_saved_model(
    model,
    filepath: str | os.PathLike,
    input_signature: list | None = None,
    verbose: bool = True,
) -> None:
    """Exports a model as a SavedModel with the endpoints `serve` and `attention`.

    `serve` is what `model.export` writes. `attention` takes the same inputs and returns
    a dictionary that maps the path of every attention layer to its attention weights: of
    layers of keras_sam, of Keras and of others, as `record_attention` sees them.
    Whoever loads the SavedModel needs TensorFlow only, neither Keras nor keras_sam. Batch
    size, and lengths that the model leaves open, stay open.

    Args:
        model: A built `keras.Model` on the TensorFlow backend.
        filepath: Where to write the SavedModel, a folder.
        input_signature: The positional arguments of the model, as a list of (nests of)
            `keras.InputSpec` or `tf.TensorSpec`. None takes it from the model, which a
            subclassed model of several inputs cannot tell.
        verbose: Whether to print the endpoints.

    Raises:
        ValueError: If the model is not built, has no attention layer or cannot tell its
            inputs, or if the backend is not TensorFlow. Nothing is written then.

    Example:

    >>> import keras, numpy as np, tempfile, tensorflow as tf, keras_sam
    >>> attend = keras_sam.SelfAttention(num_heads=2)
    >>> model = keras.Sequential([keras.Input((None, 8)), attend])
    >>> folder = tempfile.mkdtemp()
    >>> keras_sam.export_saved_model(model, folder, verbose=False)
    >>> served = tf.saved_model.load(folder)
    >>> inputs = np.ones((3, 5, 8), "float32")
    >>> served.serve(inputs).shape
    TensorShape([3, 5, 8])
    >>> served.attention(inputs)[attend.path].shape
    TensorShape([3, 2, 5, 5])
    """
    _check_model("export_saved_model", model)
    if input_signature is None:
        input_signature = signature_of(model)

    def serve(*inputs):
        return model(*inputs, training=False)

    def attention(*inputs):
        with record_attention() as maps:
            model(*inputs, training=False)
        if not maps:
            raise ValueError(
                "`model` must have at least one attention layer (see "
                "`keras_sam.record_attention` for which layers that are). "
                f"Received: model={model!r}"
            )
        return dict(maps)

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature)
    archive.add_endpoint("attention", attention, input_signature)
    archive.write_out(filepath, verbose=verbose)


def export_litert(
    model, filepath: str | os.PathLike, input_signature: list | None = None
) -> None:
    """Exports a model as a LiteRT (TensorFlow Lite) file that needs no Flex operations.

    `model.export(filepath, format="litert")` converts the kernels that are fast on
    servers: loops over blocks, some of which LiteRT cannot run. This function converts the
    reference kernel instead, which computes all rows at once (`block_size=None`). Unknown
    batch sizes and lengths stay unknown.

    Args:
        model: A built `keras.Model` on the TensorFlow backend.
        filepath: Where to write the file, which ends in `.tflite`.
        input_signature: See `export_saved_model`.

    Raises:
        ValueError: If the model is not built or cannot tell its inputs, if the file has
            another name, or if the backend is not TensorFlow. Nothing is written then.

    Example:

    >>> import keras, os, tempfile, keras_sam
    >>> attend = keras_sam.SelfAttention(num_heads=2, causal=True)
    >>> model = keras.Sequential([keras.Input((None, 8)), attend])
    >>> file = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> keras_sam.export_litert(model, file)
    >>> os.path.exists(file)
    True
    """
    _check_model("export_litert", model)
    _check_name(filepath, ".tflite")
    if input_signature is None:
        input_signature = signature_of(model)
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    archive.track(model)
    with portable("litert"), tempfile.TemporaryDirectory() as folder:
        archive.add_endpoint(
            "serve", lambda *inputs: model(*inputs, training=False), input_signature
        )
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converted = converter.convert()
    with open(filepath, "wb") as file:
        file.write(converted)


def export_onnx(
    model,
    filepath: str | os.PathLike,
    input_signature: list | None = None,
    opset_version: int | None = None,
) -> None:
    """Exports a model as an ONNX file.

    The file has the reference kernel, which computes all rows at once
    (`block_size=None`). Unknown batch sizes and lengths stay unknown; on PyTorch, lengths
    must be known.

    `model.export(filepath, format="onnx")` takes the same plain operations. But on
    TensorFlow it writes each `where` as a sum of products, so that an infinite or missing
    number in the padding reaches the results. This function writes it as ONNX's `Where`.

    Args:
        model: A built `keras.Model`.
        filepath: Where to write the file, which ends in `.onnx`.
        input_signature: See `export_saved_model`.
        opset_version: The version of ONNX's operations, an integer; None is that of the
            converter.

    Raises:
        ValueError: If the model is not built or cannot tell its inputs, if the file has
            another name, or for unknown lengths on PyTorch. Nothing is written then.
        ImportError: If the converter is missing, which is `tf2onnx` on TensorFlow,
            `jax2onnx` on JAX and `onnxscript` on PyTorch.

    Example::

        attend = keras_sam.SelfAttention(num_heads=2, causal=True)
        model = keras.Sequential([keras.Input((None, 8)), attend])
        keras_sam.export_onnx(model, "model.onnx")
        session = onnxruntime.InferenceSession("model.onnx")
    """
    _check_model("export_onnx", model, any_backend=True)
    _check_name(filepath, ".onnx")
    if input_signature is None:
        input_signature = signature_of(model)
    backend = keras.backend.backend()
    converter = {"tensorflow": "tf2onnx", "jax": "jax2onnx", "torch": "onnxscript"}[backend]
    if importlib.util.find_spec(converter) is None:
        raise ImportError(
            f"`export_onnx` needs {converter} on the backend {backend}: "
            f"`pip install {'keras-sam[onnx]' if backend == 'tensorflow' else converter}`."
        )
    with portable("onnx"):
        if backend == "tensorflow":
            _tensorflow_to_onnx(model, str(filepath), input_signature, opset_version)
            return
        for spec in keras.tree.flatten(input_signature):
            if backend == "torch" and None in spec.shape[1:]:
                raise ValueError(
                    "`input_signature` must give all sizes but the batch on PyTorch, "
                    f"whose export makes them constant. Received: shape={spec.shape}"
                )
        model.export(
            str(filepath),
            format="onnx",
            verbose=False,
            input_signature=input_signature,
            opset_version=opset_version,
        )


def _tensorflow_to_onnx(model, filepath, input_signature, opset_version):
    import tensorflow as tf
    import tf2onnx

    def to_tensor_spec(spec):
        return tf.TensorSpec(spec.shape, spec.dtype, name=spec.name)

    def where(context, node, name, arguments):
        node.type = "Where"

    signature = keras.tree.map_structure(to_tensor_spec, input_signature)
    serve = tf.function(
        lambda *inputs: model(*inputs, training=False), input_signature=signature
    )
    converted, _ = tf2onnx.convert.from_function(
        serve,
        signature,
        opset=opset_version,
        custom_op_handlers={"SelectV2": (where, [])},
    )
    _name_loop_outputs(converted.graph)
    with open(filepath, "wb") as file:
        file.write(converted.SerializeToString())


def _name_loop_outputs(graph):
    """Gives the outputs of each loop's body names of their own.

    What a loop only reads is both an input and an output of its body, under one name.
    OpenVINO 2026 counts it twice, and refuses the loop
    (https://github.com/openvinotoolkit/openvino/issues/35874).
    """
    for node in graph.node:
        for attribute in node.attribute:
            if not attribute.HasField("g"):
                continue
            body = attribute.g
            _name_loop_outputs(body)
            inputs = {given.name for given in body.input}
            for output in body.output:
                if output.name in inputs:
                    named = f"{output.name}/passed"
                    body.node.add(op_type="Identity", input=[output.name], output=[named])
                    output.name = named


def _check_name(filepath, ending):
    if not str(filepath).endswith(ending):
        raise ValueError(
            f"`filepath` must end in {ending}. Received: filepath={filepath!r}"
        )


def _check_model(function, model, any_backend=False):
    """Refuses what cannot be exported."""
    if keras.backend.backend() != "tensorflow" and not any_backend:
        raise ValueError(
            f"`{function}` needs the TensorFlow backend of Keras. "
            f"Received: keras.backend.backend()={keras.backend.backend()!r}"
        )
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"`model` must be a built keras.Model. Received: model={model!r}")
