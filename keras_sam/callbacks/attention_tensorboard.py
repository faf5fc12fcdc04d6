"""A callback that shows in TensorBoard what attention layers look at."""

import os
import time
import warnings

import keras

from keras_sam import _validation as check
from keras_sam.backend.processes import is_first_process
from keras_sam.callbacks import _thinning
from keras_sam.callbacks._event_log import EventLog
from keras_sam.callbacks._inputs import first_batch
from keras_sam.callbacks._records import RecordWriter
from keras_sam.callbacks._step import Step
from keras_sam.callbacks._tokens import check_tokens, tokens_for
from keras_sam.recording import record_attention

# After a failure to write, so many times its duration pass before the next attempt.
_PATIENCE = 30


class AttentionTensorBoard(keras.callbacks.Callback):
    """Shows in TensorBoard what every attention layer of a model looks at.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> from keras_sam import SelfAttention
    >>> from keras_sam.callbacks import AttentionTensorBoard
    >>> x, y = np.random.rand(32, 6, 8), np.random.rand(32, 6, 8)
    >>> model = keras.Sequential([SelfAttention(num_heads=2, key_dim=4)])
    >>> model.compile("adam", "mse")
    >>> logs = tempfile.mkdtemp()
    >>> watch = AttentionTensorBoard(logs, x[:2])  # two examples to look at
    >>> history = model.fit(x, y, callbacks=[watch], verbose=0)

    Then `tensorboard --logdir logs` shows:

    * *Attention* has all of it in one screen: maps of all heads, tokens, steps.
    * *Images* has the maps of all heads. Colors are multiples of uniform attention, the
      same for every head: 1x is nearly white, what a head prefers is blue.
    * *Custom Scalars* has a chart for each layer with a line for each head: keys used,
      entropy, similarity of heads, and more. *Scalars* has the same charts.
    * *Text* lists, where `tokens` are given, what each token attends to most.
    * *Histograms*, on request, are of the weights.

    Attention layers are those of keras_sam, Keras's own ones such as
    `keras.layers.MultiHeadAttention`, those of KerasHub and those of one's own that
    `keras_sam.record_attention` describes. The model needs no change.

    Args:
        log_dir: The directory that TensorBoard reads; that of `keras.callbacks.TensorBoard`
            will do. It is read when something is written.
        inputs: The examples to look at: one batch as the model takes it. The first batch
            of a dataset, a generator or a `PyDataset` is used. A tuple is read
            as `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as `fit` reads batches of a
            dataset; several inputs are a list or a dictionary.
        tokens: None, or the words behind the positions: a list with one list of strings
            for each example, for all self-attention and selective layers; a dictionary
            `{"query": lists, "key": lists}` for all cross-attention layers; or a
            dictionary of either by layer path. Lists may be shorter than the padded
            input.
        update_freq: `"epoch"`, `"batch"` or a number of batches.
        max_examples: How many of the examples to draw. Scalars are of all of them.
        per_head: Whether to write tables of tokens for every head, too.
        write_images: Whether to draw.
        write_histograms: Whether to write histograms of the weights.
        write_records: Whether to write what the tab *Attention* shows.
        levels: The levels of a weight in these records, 255, or 63 for smaller files.

    **Steps.** A step is an epoch, as `keras.callbacks.TensorBoard` counts them, from
    -1, before the training; or a number of batches, from 0, in scalars that begin with
    `batch_`. Where the log has later steps already, a training goes on behind them: use
    a new `log_dir`, or `initial_epoch`, for others. TensorBoard shows ten pictures and
    tables of a layer. So at most ten are kept: the first, the last, and evenly spaced
    ones between them.

    **Runs.** Below `log_dir`, `attention` has the means of layers and the records of the
    viewer, `attention/head_<n>` the means of a head, `attention/examples` the pictures and
    tables (`attention/examples_by_batch` and `attention/records_by_batch` with steps of
    batches). A layer that is called twice has its second call under `<layer>#2`.

    **Without `fit`.** `watch.write(model, step)` writes whenever you like, and
    `watch.close()` ends it. In `evaluate` and `predict`, the callback writes one step at
    the end, if it sees something else than it wrote last: after a training nothing, as
    the last step of the training has it already.

    **Errors.** An error never stops the training. The callback warns once, and names what
    it skipped. After a failure to write, it waits 30 times as long as the failure took
    before it tries again. Weights that are not finite are drawn in red.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        inputs,
        tokens: list | dict | None = None,
        update_freq: str | int = "epoch",
        max_examples: int = 2,
        per_head: bool = False,
        write_images: bool = True,
        write_histograms: bool = False,
        write_records: bool = True,
        levels: int = 255,
    ):
        super().__init__()
        if not isinstance(log_dir, str | os.PathLike) or not os.fspath(log_dir):
            raise check.invalid("log_dir", "the path of a directory", log_dir)
        self.log_dir = os.fspath(log_dir)
        self.inputs, examples = first_batch(inputs)
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
        self.write_records = check.boolean("write_records", write_records)
        self.levels = check.one_of("levels", levels, (63, 255))
        self._prefix = "epoch" if update_freq == "epoch" else "batch"
        self._start_anew()

    def _start_anew(self):
        """Sets the state that copies and pickles do not share."""
        self._log = None
        self._described = None  # the directory that the records are written to
        self._records = RecordWriter(self.levels, self.max_examples)
        self._logs = None  # the loss and metrics of Keras, once there are some
        self._warned = set()
        self._retry_at = 0.0
        self._is_training = False
        self._last = None  # the last step, and the statistics that were written then
        self._offset = None  # added to epochs
        self._batches = 0  # seen by the model, over all of its training
        self._batches_before_epoch = 0
        if self.update_freq != "epoch":
            # On the instance: a class that has this method makes Keras wait for every
            # batch of every training.
            self.on_train_batch_end = self._after_batch

    def __getstate__(self):
        # Tuners copy callbacks, and processes send them: without open files.
        left_out = {"_log", "_model", "on_train_batch_end"}
        state = {k: v for k, v in self.__dict__.items() if k not in left_out}
        return {**state, "_model": None}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._start_anew()

    # What Keras calls.

    def set_model(self, model):
        self._is_training = False  # a training that was interrupted is over
        super().set_model(model)

    def on_train_begin(self, logs=None):
        self._is_training, self._offset, self._retry_at = True, None, 0.0
        self._logs = None

    def on_epoch_begin(self, epoch, logs=None):
        is_first, last = self._offset is None, None
        if is_first:
            last = self._last_step()
            self._offset = 0
        if self.update_freq == "epoch":
            if is_first and last is not None:
                self._offset = max(0, last + 1 - epoch)
            before = epoch + self._offset - 1
        else:
            # Training that this callback did not see counts as well.
            optimizer = getattr(self.model, "optimizer", None)
            # As a tensor: NumPy 2 warns of variables of TensorFlow.
            done = keras.ops.convert_to_tensor(optimizer.iterations) if optimizer else 0
            self._batches = max(self._batches, int(done), last or 0)
            before = self._batches_before_epoch = self._batches
        if is_first and (last is None or before > last):
            self._try_to_write(before)

    def on_epoch_end(self, epoch, logs=None):
        self._logs = logs
        if self.update_freq == "epoch":
            is_last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
            self._try_to_write(epoch + (self._offset or 0), is_last)

    def _after_batch(self, batch, logs=None):
        self._logs = logs
        before, self._batches = self._batches, self._batches_before_epoch + batch + 1
        # `steps_per_execution` skips batches: write when a multiple has been passed.
        if self._batches // self.update_freq > before // self.update_freq:
            self._try_to_write(self._batches)

    def on_train_end(self, logs=None):
        if self._last is not None:
            step = self._last[0]
            if self.update_freq != "epoch" and self._batches > step:
                self._try_to_write(self._batches, is_last=True)
            elif self._draws and self._attempt_io(lambda: self._lacks(step), "reading"):
                self._try_to_write(step, is_last=True, again=True)
        self._is_training = False
        self._attempt_io(self.close, "closing the log")

    def on_test_end(self, logs=None):
        self._after_use()

    def on_predict_end(self, logs=None):
        self._after_use()

    def _after_use(self):
        """Writes what a model that is not trained now looks at, if that is new."""
        if self._is_training:
            return
        last = self._last_step()
        first = -1 if self.update_freq == "epoch" else 0
        self._try_to_write(first if last is None else last + 1, is_last=True, if_new=True)
        self._attempt_io(self.close, "closing the log")

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
        """Closes the event files. The next write opens others."""
        if self._log is not None:
            log, self._log = self._log, None
            log.close(self)

    @property
    def _draws(self):
        return self.write_images or bool(self.tokens)

    @property
    def _directory(self):
        return os.path.join(os.fspath(self.log_dir), "attention")

    def _open_log(self):
        if self._log is not None and self._log.directory != self._directory:
            self.close()  # somebody changed `log_dir`
        if self._log is None:
            is_there = "://" in self._directory or os.path.isdir(self._directory)
            if self._described != self._directory or not is_there:
                # The description of the run is missing in this directory.
                self._records = RecordWriter(self.levels, self.max_examples)
                self._described, self._last = self._directory, None
            self._log = EventLog.open(self._directory, self)
        return self._log

    def _examples(self):
        return _thinning.thinned(self._open_log(), self._run_of("examples", "examples"))

    def _run_of(self, name, of_epochs):
        """Returns the run of one thing: epochs and batches are steps of two kinds."""
        return of_epochs if self.update_freq == "epoch" else f"{name}_by_batch"

    def _lacks(self, step):
        """Returns whether pictures and tables of a step are missing."""
        return not self._examples().has(step)

    def _last_step(self):
        """Returns the last step in the log, or None."""

        def read():
            return self._open_log().last_step(f"{self._prefix}_attention_")

        return self._attempt_io(read, "reading the log")

    def _attempt_io(self, function, what):
        """Calls a function that reads or writes files; if it fails, waits a while."""
        started = time.monotonic()
        if started < self._retry_at:
            return None
        try:
            return function()
        except Exception as error:
            now = time.monotonic()
            self._retry_at = now + _PATIENCE * (now - started)
            self._warn_once(f"{what} below {self._directory!r}", error)

    def _try_to_write(self, step, is_last=False, **kwargs):
        if time.monotonic() < self._retry_at:
            return
        try:
            self._write(self.model, step, self._warn_once, is_last, **kwargs)
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

    def _write(self, model, step, failed, is_last=False, if_new=False, again=False):
        """Writes a step.

        Args:
            model: The model.
            step: The step.
            failed: A function of what was skipped and of the error.
            is_last: Whether the pictures of this step are kept in any case.
            if_new: Whether to write only what differs from the last step.
            again: Whether the step was written, but for its pictures.
        """
        with record_attention() as maps:
            model(self.inputs, training=False)
        if not maps:
            error = ValueError("no attention layer was called")
            failed("everything", error)
            return
        found = Step(self, maps, failed)
        is_same = self._last is not None and found.statistics == self._last[1]
        if (if_new and is_same) or (again and not is_same) or not is_first_process():
            return
        started = time.monotonic()
        try:
            log, examples = self._open_log(), self._examples()
            if not again:
                for run, values in found.scalars().items():
                    log.write(values, step, run)
                log.write_layout(found.layout(), step)
                if self.write_records:
                    values = self._record_values(maps, step, failed)
                    log.write(values, step, self._run_of("records", ""))
            if self._draws and (examples.wants(step) or is_last) and not examples.has(step):
                drawing = time.monotonic()
                values = found.examples()
                started += time.monotonic() - drawing
                examples.write(values, step)
            self._last = step, found.statistics
        except Exception as error:
            now = time.monotonic()
            self._retry_at = now + _PATIENCE * (now - started)
            # The description of the run may be missing in the log: write it once more.
            self._records = RecordWriter(self.levels, self.max_examples)
            failed(f"writing below {self._directory!r}", error)

    def _record_values(self, maps, step, failed):
        def tokens_of(path):
            return tokens_for(self.tokens, path, maps.details[path])

        epochs = self.params and self.params.get("epochs")
        return self._records.values(
            maps, step, self._logs, tokens_of, self.inputs, failed, epochs
        )
