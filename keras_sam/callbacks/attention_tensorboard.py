"""A callback that shows in TensorBoard what attention layers look at."""

import os
import warnings

import keras
import numpy as np

from keras_sam import _validation as check
from keras_sam.backend.processes import is_first_process
from keras_sam.callbacks import _heatmaps, _overlays, _summaries
from keras_sam.callbacks._kinds import KINDS
from keras_sam.callbacks._statistics import MEANINGS, summarize
from keras_sam.callbacks._tokens import (
    attended_table,
    check_tokens,
    table_of_parts,
    tokens_for,
)
from keras_sam.recording import record_attention


class AttentionTensorBoard(keras.callbacks.Callback):
    """Shows in TensorBoard what every attention layer of a model looks at.

    Runs a few examples through the model after every epoch, or every so many batches,
    and writes under `<log_dir>/attention`:

    * Scalars: `epoch_attention_entropy/<layer>`, `epoch_attention_distance/<layer>`
      and `epoch_attention_max/<layer>` (or what fits the kind of attention), with
      `per_head` also `.../<layer>/head_<n>`;
    * Images: `<layer>/attention/image`, for each example one picture with the map of
      every head, from zero (dark) to its own maximum (yellow); gray is masked. A
      map of places is there twice, by itself and over the input if that is a picture;
    * Text, where `tokens` are given: `<layer>/attention/tokens`, which tokens each
      token attends to most, or which have the largest weights of all;
    * Histograms, on request: `<layer>/attention/histogram`.

    A layer that is called twice has its second call under `<layer>#2`. Steps are
    epochs, as `keras.callbacks.TensorBoard` counts them, or batches over all of
    training, whose scalars begin with `batch_`. Use both callbacks with the same
    `log_dir`.

    Nothing that goes wrong while logging stops the training: it is warned of once.

    Args:
        log_dir: The directory that TensorBoard reads.
        inputs: The examples to look at: one batch, as the model takes it (an array, or
            a list, tuple or dictionary of arrays).
        tokens: None, or the words behind the positions: a list with one list of strings
            for each example, for all self-attention and selective layers; a dictionary
            `{"query": lists, "key": lists}` for all cross-attention layers; or a
            dictionary of either by layer path. Lists may be shorter than the padded
            input.
        update_freq: `"epoch"`, `"batch"` or a number of batches.
        max_examples: How many of the examples to draw. Scalars are of all of them.
        per_head: Whether to write scalars for every head, too.
        write_images: Whether to draw.
        write_histograms: Whether to write histograms of the weights.

    TensorBoard keeps ten pictures of a layer unless it is told otherwise:
    `tensorboard --logdir logs --samples_per_plugin images=100`.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> from keras_sam import SelfAttention
    >>> from keras_sam.callbacks import AttentionTensorBoard
    >>> x, y = np.random.rand(32, 6, 8), np.random.rand(32, 6, 8)
    >>> model = keras.Sequential([SelfAttention(num_heads=2, key_dim=4)])
    >>> model.compile("adam", "mse")
    >>> watch = AttentionTensorBoard(tempfile.mkdtemp(), x[:2])
    >>> history = model.fit(x, y, callbacks=[watch], verbose=0)

    Without `fit`, or in a loop of your own:

    >>> watch.write(model, step=1)
    >>> watch.close()
    """

    def __init__(
        self,
        log_dir,
        inputs,
        tokens=None,
        update_freq="epoch",
        max_examples=2,
        per_head=False,
        write_images=True,
        write_histograms=False,
    ):
        super().__init__()
        if not isinstance(log_dir, str | os.PathLike) or not os.fspath(log_dir):
            raise check.invalid("log_dir", "the path of a directory", log_dir)
        self.log_dir = os.fspath(log_dir)
        self.inputs = inputs
        examples = _check_inputs(inputs)
        self.tokens = check_tokens(tokens, examples)
        if update_freq == "batch":
            update_freq = 1
        if update_freq != "epoch" and not (
            check.is_integer(update_freq) and update_freq >= 1
        ):
            expected = '"epoch", "batch" or a positive integer'
            raise check.invalid("update_freq", expected, update_freq)
        self.update_freq = update_freq
        self.max_examples = check.positive_integer("max_examples", max_examples)
        self.per_head = check.boolean("per_head", per_head)
        self.write_images = check.boolean("write_images", write_images)
        self.write_histograms = check.boolean("write_histograms", write_histograms)
        self._prefix = "epoch" if update_freq == "epoch" else "batch"
        self._directory = os.path.join(self.log_dir, "attention")
        self._file = None
        self._warned = set()
        self._batches = 0  # seen by the model, over all of its training
        self._batches_before_epoch = 0
        if update_freq != "epoch":
            # On the instance: a class that has this method makes Keras wait for every
            # batch of every training.
            self.on_train_batch_end = self._after_batch

    # What Keras calls.

    def set_model(self, model):
        if model is not self._model:
            self._batches = 0
        super().set_model(model)

    def on_epoch_begin(self, epoch, logs=None):
        if self.update_freq != "epoch":
            # Training that this callback did not see counts as well.
            done = keras.ops.convert_to_numpy(self.model.optimizer.iterations)
            self._batches = max(self._batches, int(done))
            self._batches_before_epoch = self._batches

    def on_epoch_end(self, epoch, logs=None):
        if self.update_freq == "epoch":
            self._try_to_write(epoch)

    def _after_batch(self, batch, logs=None):
        before, self._batches = self._batches, self._batches_before_epoch + batch + 1
        # `steps_per_execution` skips batches: write when a multiple has been passed.
        if self._batches // self.update_freq > before // self.update_freq:
            self._try_to_write(self._batches)

    def on_train_end(self, logs=None):
        try:
            self.close()
        except Exception as error:
            self._warn_once(f"closing the log in {self._directory!r}", error)

    # What it does.

    def write(self, model, step):
        """Writes the attention of `model` now, without or beside `fit`.

        Args:
            model: A model that takes `inputs`.
            step: An integer, where in training this is.
        """
        if not check.is_integer(step):
            raise check.invalid("step", "an integer", step)

        def failed(what, error):
            raise error

        self._write(model, int(step), failed)

    def close(self):
        """Closes the event file. The next write opens another one."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close(self)

    def _try_to_write(self, step):
        try:
            self._write(self.model, step, self._warn_once)
        except Exception as error:
            self._warn_once("attention of the model", error)

    def _warn_once(self, what, error):
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(
                f"AttentionTensorBoard skipped {what}, and training goes on (this is "
                f"said once). {type(error).__name__}: {error}",
                stacklevel=2,
            )

    def _write(self, model, step, failed):
        with record_attention() as maps:
            model(self.inputs, training=False)
        if not maps:
            error = ValueError("no attention layer of keras_sam was called")
            failed("everything", error)
        values = []
        for path, tag in _summaries.tags_for(maps).items():
            try:
                # One by one: what comes before an error is kept.
                of_layer = self._of_layer(path, tag, maps[path], maps.details[path])
                for value in of_layer:
                    values.append(value)
            except Exception as error:
                failed(f"part of the layer {path!r}", error)
        for path in set(self.tokens) - {None} - set(maps):
            listed = ", ".join(map(repr, maps)) or "none"
            error = ValueError(f"the model calls no such layer, but {listed}")
            failed(f"the tokens of the layer {path!r}", error)
        if values and is_first_process():
            self._file = _summaries.EventFile.open(self._directory, self)
            self._file.write(values, step)

    def _of_layer(self, path, tag, weights, details):
        kind = KINDS[details.kind]
        weights = np.asarray(keras.ops.convert_to_numpy(weights), np.float32)
        allowed = kind.allowed(weights)
        yield from self._scalars(tag, kind.statistics(weights, allowed, details))
        if self.write_histograms:
            about = "The weights that are not masked."
            tag_of_histogram = f"{tag}/attention/histogram"
            yield _summaries.histogram(tag_of_histogram, weights[allowed], about)
        if self.write_images:
            yield self._image(f"{tag}/attention/image", kind, weights, allowed, details)
        pair = tokens_for(self.tokens, path, details)
        if pair is not None:
            if details.kind == "selective":
                about = "The tokens with the largest weights, and the weights of all."
                rows = table_of_parts(weights, pair[1], self.max_examples)
            else:
                about = "The key tokens with the largest weights, the mean over the heads."
                rows = attended_table(weights, pair, self.max_examples)
            yield _summaries.table(f"{tag}/attention/tokens", rows, about)

    def _scalars(self, tag, statistics):
        for name, (rows, counted) in statistics.items():
            layer, heads = summarize(rows, counted)
            name_of_layer = f"{self._prefix}_attention_{name}/{tag}"
            named = {name_of_layer: layer}
            if self.per_head:
                named |= {f"{name_of_layer}/head_{n}": v for n, v in enumerate(heads)}
            for name_of_scalar, value in named.items():
                if value is not None:
                    about = MEANINGS[name]
                    yield _summaries.scalar(name_of_scalar, value, about)

    def _image(self, tag, kind, weights, allowed, details):
        pictures = []
        inputs = self._pictures_below(kind, weights, details)
        for example in range(min(self.max_examples, len(weights))):
            panels = kind.panels(weights[example], allowed[example], details)
            axes = kind.axes + (", mean: of rows" if len(panels[0]) > 1 else "")
            if inputs is None:
                codes, _ = _heatmaps.page(panels, axes)
            else:
                panels = _overlays.beside(panels)
                codes, corners = _heatmaps.page(panels, axes)
                codes = _overlays.blend(codes, corners, panels, inputs[example])
            pictures.append(_heatmaps.encode_png(codes))
        step = _heatmaps.pooling(panels[0][0].values.shape)
        about = (
            f"One picture for each example; {axes}. Each map goes from 0 (dark "
            "purple) to its own maximum (yellow), which is written above it. Gray has no "
            "weight in any head (masked, or left out by a sparse normalizer); red is not "
            "a number."
        )
        if step > 1:
            about += f" {step} x {step} weights share a pixel, which has their maximum."
        if inputs is not None:
            about += " Over the input: half the map, half the input in gray."
        return _summaries.image(tag, pictures, codes.shape[:2], about)

    def _pictures_below(self, kind, weights, details):
        """The pictures that maps of this kind are to be drawn over, or None."""
        if not kind.over_input or len(details.query_grid or details.key_grid or ()) != 2:
            return None
        pictures = _overlays.gray_pictures(self.inputs)
        # Of another number when a layer is called inside `TimeDistributed`.
        return None if pictures is None or len(pictures) != len(weights) else pictures


def _check_inputs(inputs):
    """Returns the number of examples in `inputs`, or raises."""
    leaves = keras.tree.flatten(inputs)
    shapes = [getattr(leaf, "shape", None) for leaf in leaves]
    sizes = {shape[0] if shape is not None and len(shape) else None for shape in shapes}
    symbolic = any(isinstance(leaf, keras.KerasTensor) for leaf in leaves)
    if symbolic or len(sizes) != 1 or not all(sizes):
        raise check.invalid(
            "inputs",
            "one batch of examples as the model takes it: an array, or a list, tuple "
            "or dictionary of arrays with the same number of examples (of a dataset, "
            "`next(iter(dataset))` without its labels)",
            inputs,
        )
    return int(sizes.pop())
