"""How fast is attention on a GPU, beside Keras, PyTorch and the plain way to write it?

For a machine with JAX, PyTorch and one GPU; TensorFlow is not needed. It takes less than
four minutes, prints each row as soon as it is measured, and ends what takes too long.

    python benchmarks/gpu.py                  # checks, then the table in docs/
    python benchmarks/gpu.py --only window    # the cases whose name has this in it
    python benchmarks/gpu.py --small          # small sizes, on a CPU too: that it runs

First every kernel is compared with the formula in float64: the error is that of the output
or of a gradient, whichever is worst, over the largest number there. Then layers of width
512 with 8 heads of 64 are timed, in one `jax.jit`: forward, and "train", which is forward
and the gradients of input and weights. Times are medians of five; MiB is the temporary
memory that XLA reports. Cases run in a process apart, which is killed when a case is over
its limit, because nothing else ends a compiler.
"""

import argparse
import functools
import json
import os
import pathlib
import queue
import statistics
import subprocess
import sys
import threading
import time

LIMIT = 25  # seconds for a case
START = 20  # more seconds for the first case of a process
BUDGET = 225  # seconds for all of them
WIDTH, HEADS, DEPTH = 512, 8, 64
HALF = "mixed_bfloat16"
ALLOWED = {"float32": 3e-3, "bfloat16": 3e-2}


def attention(
    batch, length, dtype=HALF, keras=True, passes=("forward", "train"), **options
):
    """A case of SelfAttention; see `make_attention`."""
    sizes = {"batch": batch, "length": length, "dtype": dtype, "passes": passes}
    return {"kind": "attention", **sizes, "options": options, "keras": keras}


def gate(layer, *shape):
    return {"kind": "gate", "layer": layer, "shape": shape, "passes": ("forward", "train")}


def sdpa(batch, length, causal=False):
    return {
        "kind": "sdpa",
        "backend": "torch",
        "batch": batch,
        "length": length,
        "causal": causal,
    }


CASES = {
    "plain, 4 x 4096": attention(4, 4096),
    "causal, 4 x 4096": attention(4, 4096, causal=True),
    "padded, 4 x 4096": attention(4, 4096, padded=True),
    "causal and padded, 4 x 4096": attention(4, 4096, causal=True, padded=True),
    "grouped, 4 x 4096": attention(4, 4096, num_key_value_heads=2),
    "window 256, 1 x 8192": attention(1, 8192, sliding_window=256),
    "causal window 256, 1 x 8192": attention(1, 8192, sliding_window=256, causal=True),
    "float32, 1 x 4096": attention(1, 4096, "float32"),
    "additive, 1 x 2048 x 256": attention(
        1, 2048, keras=False, num_heads=1, key_dim=256, score="additive"
    ),
    "sparsemax, 1 x 4096": attention(1, 4096, keras=False, normalizer="sparsemax"),
    "entmax, 1 x 4096": attention(1, 4096, keras=False, normalizer="entmax"),
    "sigmoid, 1 x 4096": attention(1, 4096, keras=False, normalizer="sigmoid"),
    "SpatialAttention, 8 x 64 x 64 x 256": gate("SpatialAttention", 8, 64, 64, 256),
    "SpatialAttention, 32 x 16 x 16 x 512": gate("SpatialAttention", 32, 16, 16, 512),
    "CBAM, 8 x 64 x 64 x 256": gate("CBAM", 8, 64, 64, 256),
    "CBAM, 32 x 16 x 16 x 512": gate("CBAM", 32, 16, 16, 512),
    "plain, 16 x 1024": attention(16, 1024),
    "causal, 16 x 1024": attention(16, 1024, causal=True),
    "plain, 1 x 16384": attention(1, 16384),
    "causal, 1 x 16384": attention(1, 16384, causal=True),
    "plain, 1 x 65536": attention(1, 65536, passes=("train",)),
    "PyTorch, plain, 4 x 4096": sdpa(4, 4096),
    "PyTorch, causal, 4 x 4096": sdpa(4, 4096, True),
    "PyTorch, plain, 1 x 16384": sdpa(1, 16384),
    "PyTorch, causal, 1 x 16384": sdpa(1, 16384, True),
}
CHECKS = [
    {"kind": "check", "kernel": kernel, "dtype": dtype, "normalizer": normalizer, **mask}
    for dtype in ("bfloat16", "float32")
    for kernel, normalizer, mask in (
        ("library", "softmax", {}),
        ("library", "softmax", {"causal": True}),
        ("library", "softmax", {"padded": True}),
        ("library", "softmax", {"causal": True, "padded": True}),
        ("library", "softmax", {"causal": True, "window": 50}),
        ("library", "softmax", {"key_heads": 2}),
        ("pallas", "softmax", {"window": 50}),
        ("pallas", "softmax", {"padded": True}),
        ("pallas", "softmax", {"causal": True, "key_heads": 2}),
        ("pallas", "sigmoid", {}),
        ("pallas", "sparsemax", {}),
        ("pallas", "entmax", {"causal": True, "padded": True}),
        ("flash", "softmax", {"causal": True}),
        ("chunked", "sigmoid", {"padded": True}),
        ("additive", "softmax", {}),
    )
    # cuDNN has no float32, and additive scores have nothing else.
    if (kernel, dtype) not in (("library", "float32"), ("additive", "bfloat16"))
]


def small(case):
    """Returns a case of a size that a CPU computes quickly."""
    if "shape" in case:
        return {**case, "shape": (2, 8, 8, 32)}
    if "length" in case:
        case = {**case, "batch": 1, "length": 64}
        options = dict(case.get("options", {}))
        if "sliding_window" in options:
            options["sliding_window"] = 9
        if "key_dim" in options:
            options["key_dim"] = 32
        return {**case, "options": options}
    return {**case, "length": 70}


# The process that measures


def serve(backend):
    """Reads cases, one a line, and prints their rows, and an empty line after each."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    makers = {
        "check": check,
        "attention": time_attention,
        "gate": time_gate,
        "sdpa": time_sdpa,
        "machine": machine,
    }
    for line in sys.stdin:
        case = json.loads(line)
        try:
            for row in makers[case["kind"]](case):
                print(json.dumps(row), flush=True)
        except Exception as error:
            message = str(error).strip().splitlines() or [type(error).__name__]
            print(json.dumps({"error": message[0][:150]}), flush=True)
        print(flush=True)


def machine(case):
    import keras

    if keras.backend.backend() == "torch":
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
        yield {"text": f"{device}, PyTorch {torch.__version__}, Keras {keras.__version__}"}
        return
    import jax

    device = jax.devices()[0].device_kind
    yield {"text": f"{device}, JAX {jax.__version__}, Keras {keras.__version__}"}


def arrays(case, depth=DEPTH):
    import numpy as np

    generator = np.random.default_rng(0)
    length, heads = case.get("length", 500), 4
    shapes = [(2, n, length, depth) for n in (heads, *[case.get("key_heads", heads)] * 2)]
    given = [generator.normal(size=shape) for shape in (*shapes, shapes[0])]
    lengths = np.array([[length], [length * 3 // 4]])
    mask = np.arange(length) < lengths if case.get("padded") else None
    return given, mask


def check(case):
    """Compares a kernel with the formula, in float64 on the CPU."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from keras_sam.attention import attend, explain
    from keras_sam.attention.policy import Policy

    if case["kernel"] == "additive":
        yield check_additive(case)
        return
    given, mask = arrays(case)
    options = {
        "causal": case.get("causal", False),
        "key_mask": mask,
        "sliding_window": case.get("window"),
        "normalizer": case["normalizer"],
    }

    def differentiate(upstream, *tensors, **way):
        def weighted(*tensors):
            output = attend(*tensors, **options, **way)
            return (output.astype(upstream.dtype) * upstream).sum(), output

        found = jax.value_and_grad(weighted, (0, 1, 2), has_aux=True)(*tensors)
        (_, output), gradients = found
        return output, *gradients

    narrow = [jnp.asarray(x, case["dtype"]) for x in given]
    way = {"policy": Policy(kernel=case["kernel"])}
    run = jax.jit(functools.partial(differentiate, **way))
    (found,) = explain(run.lower, narrow[3].astype("float32"), *narrow[:3])
    actual = run(narrow[3].astype("float32"), *narrow[:3])
    actual = [np.asarray(x.astype("float32"), "float64") for x in actual]
    # What the kernel was given, rounded, in float64.
    wide = [np.asarray(x.astype("float32"), "float64") for x in narrow]
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        run = jax.jit(functools.partial(differentiate, block_size=None))
        expected = [*map(np.asarray, run(wide[3], *wide[:3]))]
    yield error_row(case, found.kernel, actual, expected)


def check_additive(case):
    import jax.numpy as jnp
    import numpy as np

    from keras_sam.scores import additive_pallas

    (query, key, _, _), _ = arrays({**case, "length": case.get("length", 150)}, depth=24)
    query, key = query[:, :, :90], 3 * key
    vector = np.random.default_rng(1).normal(size=(4, 24))
    upstream = np.random.default_rng(2).normal(size=(*query.shape[:3], key.shape[2]))
    given = [jnp.asarray(x, "float32") for x in (query, key, vector)]
    (scores,), _ = additive_pallas.forward(given, ())
    up = [jnp.asarray(upstream, "float32")]
    gradients = additive_pallas.backward(given, (), [scores], (), up)
    query, key, vector = (np.asarray(x, "float64") for x in given)
    hidden = np.tanh(query[:, :, :, None] + key[:, :, None])
    slope = upstream[..., None] * (1 - hidden**2) * vector[:, None, None]
    expected = [hidden @ vector[:, None, :, None], slope.sum(3), slope.sum(2)]
    expected[0] = expected[0][..., 0]
    expected.append((upstream[..., None] * hidden).sum((0, 2, 3)))
    actual = [np.asarray(x, "float64") for x in (scores, *gradients)]
    return error_row(case, "additive", actual, expected)


def error_row(case, kernel, actual, expected):
    import numpy as np

    pairs = zip(actual, expected, strict=True)
    # NumPy's maximum: that of Python loses what is no number.
    error = float(np.max([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]))
    return {
        "kernel": kernel,
        "error": None,
        "is_off_by": error,
        "is_right": bool(error < ALLOWED[case["dtype"]]),
    }


def time_attention(case):
    """Times SelfAttention, and the layer of Keras that does the same."""
    import keras
    import numpy as np

    import keras_sam

    keras.config.set_dtype_policy(case["dtype"])
    options = {"num_heads": HEADS, "key_dim": DEPTH, **case["options"]}
    padded = options.pop("padded", False)
    batch, length = case["batch"], case["length"]
    x = np.random.default_rng(0).normal(size=(batch, length, WIDTH)).astype("float32")
    mask = np.arange(length) < length * 3 // 4 + 0 * np.arange(batch)[:, None]
    ours = keras_sam.SelfAttention(**options)
    ours.build(x.shape)
    yield from timed(case, "ours", ours, x, {"mask": mask} if padded else {})
    if not case["keras"]:
        return
    window, causal = options.get("sliding_window"), options.get("causal", False)
    heads = {"num_heads": options["num_heads"], "key_dim": options["key_dim"]}
    groups = options.get("num_key_value_heads")
    call = {"value": x, "use_causal_mask": causal}
    if groups:
        theirs = keras.layers.GroupQueryAttention(
            options["key_dim"], options["num_heads"], groups
        )
    else:
        theirs = keras.layers.MultiHeadAttention(**heads)
    theirs.build(x.shape, x.shape)
    if padded:
        call |= {"query_mask": mask, "value_mask": mask}
    if window is not None:
        distance = np.arange(length)[:, None] - np.arange(length)
        call["attention_mask"] = (np.abs(distance) < window)[None]
    yield from timed(case, "keras", theirs, x, call)


def timed(case, contender, layer, x, call):
    """Times a layer, and returns rows; the input stands for the value too."""
    import jax

    from keras_sam.attention import explain

    weights = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]
    dtype = layer.compute_dtype
    twice = "value" in call
    call = {name: value for name, value in call.items() if name != "value"}
    arrays = {n: jax.numpy.asarray(v) for n, v in call.items() if hasattr(v, "shape")}
    fixed = {name: value for name, value in call.items() if name not in arrays}

    def forward(weights, x, arrays):
        inputs = (x, x) if twice else (x,)
        return layer.stateless_call(weights, others, *inputs, **arrays, **fixed)[0]

    def train(weights, x, arrays):
        def total(weights, x):
            return forward(weights, x, arrays).astype("float32").sum()

        return jax.value_and_grad(total, (0, 1))(weights, x)

    x = jax.numpy.asarray(x, dtype)
    for name in case["passes"]:
        step = {"forward": forward, "train": train}[name]
        lower = jax.jit(step).lower
        kernels = [each.kernel for each in explain(lower, weights, x, arrays)]
        compiled = lower(weights, x, arrays).compile()
        run = functools.partial(compiled, weights, x, arrays)
        bytes_used = compiled.memory_analysis().temp_size_in_bytes
        yield {
            "pass": name,
            "contender": contender,
            "kernel": ", ".join(kernels),
            "ms": median_ms(lambda run=run: jax.block_until_ready(run())),
            "mib": bytes_used / 2**20,
        }


def median_ms(run, rounds=5):
    run()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    times = []
    for _ in range(rounds if seconds < 2 else 1):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def time_gate(case):
    """Times a spatial gate, the plain way to write it, and copies of the features."""
    import jax
    import keras
    import numpy as np
    from naive_gates import NaiveCBAM, NaiveSpatial

    import keras_sam

    keras.config.set_dtype_policy(HALF)
    x = np.random.default_rng(0).normal(size=case["shape"]).astype("float32")
    naive = {"SpatialAttention": NaiveSpatial, "CBAM": NaiveCBAM}[case["layer"]]
    layers = {"ours": getattr(keras_sam.layers, case["layer"])(), "naive": naive()}
    for name, layer in layers.items():
        layer.build(x.shape)
        yield from timed(case, name, layer, x, {})
    x = jax.numpy.asarray(x, "bfloat16")
    copies = {"forward": lambda x: [x + 1], "train": lambda x: [x + 1, x * 2]}
    for name, copy in copies.items():
        run = jax.jit(copy)
        ms = median_ms(lambda run=run: jax.block_until_ready(run(x)))
        yield {"pass": name, "contender": "copies", "kernel": "", "ms": ms, "mib": 0.0}


def time_sdpa(case):
    """Times PyTorch's kernel alone."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = case["batch"], HEADS, case["length"], DEPTH
    options = {"device": device, "dtype": torch.bfloat16, "requires_grad": True}
    tensors = [torch.randn(shape, **options) for _ in range(3)]
    upstream = torch.randn(shape, device=device, dtype=torch.bfloat16)

    def forward():
        with torch.no_grad():
            return attend()

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(
            *tensors, is_causal=case["causal"]
        )

    def train():
        torch.autograd.grad(attend(), tensors, upstream)

    for name, step in (("forward", forward), ("train", train)):

        def run(step=step):
            step()
            if device == "cuda":
                torch.cuda.synchronize()

        kernel = "scaled_dot_product_attention, alone"
        yield {
            "pass": name,
            "contender": "torch",
            "kernel": kernel,
            "ms": median_ms(run),
            "mib": float("nan"),
        }


# The process that asks for them


class Worker:
    """A process that measures cases, and another one after it was killed."""

    def __init__(self, backend):
        self.backend, self.process, self.lines = backend, None, None

    def rows(self, case, limit):
        """Yields the rows of a case, the last of which may be an error."""
        if limit <= 0:
            yield {"error": "no time left"}
            return
        if self.process is None or self.process.poll() is not None:
            self._start()
            limit += START
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        end, failed = time.monotonic() + limit, False
        while True:
            try:
                line = self.lines.get(timeout=max(end - time.monotonic(), 0.01))
            except queue.Empty:
                self.stop()
                yield {"error": f"over the limit of {limit:.0f} s"}
                return
            if line is None:
                self.stop()
                yield {"error": "the process died"}
                return
            if not line.strip():
                if failed:  # an error of CUDA fails all that a process does afterwards
                    self.stop()
                return
            if line.startswith("{"):
                row = json.loads(line)
                failed = "error" in row and row["error"] is not None
                yield row

    def _start(self):
        command = [sys.executable, __file__, "--serve", self.backend]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.lines = queue.Queue()
        arguments = self.process.stdout, self.lines
        threading.Thread(target=_read, args=arguments, daemon=True).start()

    def stop(self):
        """Ends the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _read(stream, lines):
    for line in stream:
        lines.put(line)
    lines.put(None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small sizes")
    parser.add_argument("--only", default="", help="a part of the names of cases")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    start = time.monotonic()
    limit, budget = (90, 900) if given.small else (LIMIT, BUDGET)
    workers = {name: Worker(name) for name in ("jax", "torch")}
    wrong = 0
    for row in workers["jax"].rows({"kind": "machine"}, limit):
        print(row.get("text", row), flush=True)

    def left():
        return budget - (time.monotonic() - start)

    print(f"\n{'kernel':10} {'normalizer':11} {'dtype':9} {'masks':38} error", flush=True)
    for case in CHECKS if not given.only else []:
        case = small(case) if given.small else case
        hidden = ("kind", "kernel", "dtype", "normalizer", "length")
        masks = " ".join(f"{n}={x}" for n, x in case.items() if n not in hidden)
        names = f"{case['kernel']:10} {case['normalizer']:11} {case['dtype']:9}"
        for row in workers["jax"].rows(case, min(limit, left())):
            wrong += not row.get("is_right", False)
            text = row["error"] or f"{row['is_off_by']:.1e}"
            print(f"{names} {masks:38} {text}", flush=True)
    print(
        f"\n{'case':37} {'pass':8} {'contender':10} {'ms':>9} {'MiB':>8}  kernel",
        flush=True,
    )
    for name, case in CASES.items():
        if given.only not in name:
            continue
        case = small(case) if given.small else case
        worker = workers[case.get("backend", "jax")]
        for row in worker.rows(case, min(limit, left())):
            if "error" in row:
                print(f"{name:37} {row['error']}", flush=True)
                continue
            cells = (
                f"{row['pass']:8} {row['contender']:10} {row['ms']:9.3f} {row['mib']:8.0f}"
            )
            print(f"{name:37} {cells}  {row['kernel']}", flush=True)
    for worker in workers.values():
        worker.stop()
    print(f"\n{time.monotonic() - start:.0f} s; {wrong} checks failed")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
