"""What runs where: the models of `test_onnx.py` and `test_litert.py`, and their table.

`python tests/runtimes.py` writes the table in docs/runtimes.md anew. The tests compare each
cell of it with what they find. So a cell cannot promise more, or less, than is true.
"""

import functools
import importlib.util
import pathlib
import shutil
import tempfile
import weakref

import keras
import numpy as np
from cases import CASES, SEQUENCE, Case
from common import NORMALIZERS, SCORES, numpy, randomize

import keras_sam
from keras_sam import SelectiveAttention, SelfAttention, normalizers, scores

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "runtimes.md"
FIRST, LAST = "<!-- table -->\n", "<!-- end of table -->\n"
YES, FIXED, NO = "yes", "fixed lengths", "no"
ROUNDINGS = 28  # see `assert_rounded_alike`
CALLS = ((2, 7), (4, 11))  # batch, and what is open


def attention(**options):
    return [Case(SelfAttention, {"num_heads": 2, **options}, **SEQUENCE)]


def selection(**options):
    return [Case(SelectiveAttention, options, **SEQUENCE)]


def layers(*names):
    """For each layer all its cases in the contract."""
    return {
        f"`{name}`": [case for case in CASES.values() if case.layer.__name__ == name]
        for name in names
    }


# The rows of the table, in groups that are converted together: one conversion of many
# layers takes a fraction of the time of many conversions.
GROUPS = {
    "self": layers("SelfAttention"),
    "cross": layers("CrossAttention", "UnprojectedAttention"),
    "selective": layers("SelectiveAttention"),
    "gates": layers(
        "SpatialAttention",
        "PointwiseSpatialAttention",
        "SpatialGate",
        "ChannelAttention",
        "CBAM",
    ),
    "scores": {f'`score="{name}"`': attention(score=name) for name in SCORES}
    | {"`TanhSum`": attention(score=scores.TanhSum())},
    "normalizers": {
        f'`normalizer="{name}"`': attention(normalizer=name) for name in NORMALIZERS
    }
    | {
        "`Entmax(1.3)`": attention(normalizer=normalizers.Entmax(1.3)),
        "`Entmax(3.0)`": attention(normalizer=normalizers.Entmax(3.0)),
        '`Sigmoid("-log(length)")`': attention(
            normalizer=normalizers.Sigmoid("-log(length)")
        ),
    },
    "arguments": {
        "`causal`, `sliding_window`, `selective`": [
            *attention(causal=True),
            *attention(causal=True, sliding_window=3),
            *attention(causal=True, selective=True),
        ],
        '`relation="self"`': [
            *selection(relation="self"),
            *selection(relation="self", score="additive", num_heads=2),
        ],
        "`top_k`": [
            *selection(top_k=2),
            *selection(top_k=0.5),
            *selection(top_k=0.5, pool=False),
        ],
        "`pool=False`, `num_heads`": [*selection(pool=False), *selection(num_heads=3)],
    },
    "one head": {
        "additive scores with one head": selection(relation="self", score="additive"),
    },
}


class Onnx:
    """ONNX Runtime."""

    title, packages, ending = "ONNX Runtime", ("tf2onnx", "onnxruntime"), ".onnx"
    export = staticmethod(keras_sam.export_onnx)

    def __init__(self, path):
        import onnxruntime

        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(path), providers=providers)

    def __call__(self, arrays):
        names = [given.name for given in self._session.get_inputs()]
        return self._session.run(None, dict(zip(names, arrays, strict=True)))


class OpenVino:
    """OpenVINO, which reads ONNX files."""

    title, packages, ending = "OpenVINO", ("tf2onnx", "openvino"), ".onnx"
    export = staticmethod(keras_sam.export_onnx)

    def __init__(self, path):
        import openvino

        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        self._model = openvino.Core().compile_model(str(path), "CPU", exact)

    def __call__(self, arrays):
        found = self._model(dict(enumerate(arrays)))
        return [np.array(found[output]) for output in self._model.outputs]


class LiteRt:
    """LiteRT without Flex operations."""

    title, packages, ending = "LiteRT", ("ai_edge_litert",), ".tflite"
    export = staticmethod(keras_sam.export_litert)

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter

        self._runner = Interpreter(str(path)).get_signature_runner()

    def __call__(self, arrays):
        details = self._runner.get_input_details()
        names = sorted(details, key=lambda name: int(name[1:]))
        found = self._runner(**dict(zip(names, arrays, strict=True)))
        # By number, "output_10" after "output_9". Copies of the interpreter's own arrays.
        order = sorted(found, key=lambda name: int(name.removeprefix("output_")))
        return [np.array(found[name]) for name in order]


RUNTIMES = {runtime.title: runtime for runtime in (Onnx, OpenVino, LiteRt)}


def is_there(runtime):
    return all(importlib.util.find_spec(package) for package in runtime.packages)


class Sample:
    """A model of some cases, without and with masks, and calls with what they return.

    Args:
        cases: A list of `Case`.
        unknown: Whether lengths are unknown.
    """

    def __init__(self, cases, unknown):
        symbols, outputs, counts = [], [], []
        for case in cases:
            inputs, layer = case.symbols(unknown), case.make()
            found = keras.tree.flatten(layer(*inputs))
            masks = {
                name: keras.Input(inputs[i].shape[1:-1], dtype="bool")
                for name, i in case.masks.items()
            }
            found += keras.tree.flatten(layer(*inputs, **masks))
            symbols += [*inputs, *masks.values()]
            outputs += found
            counts.append(len(found))
        self.cases, self.counts = cases, counts
        self.model = randomize(keras.Model(symbols, outputs))
        self.signature = [
            keras.InputSpec(shape=x.shape, dtype=x.dtype, name=f"x{i}")
            for i, x in enumerate(self.model.inputs)
        ]
        self.calls = []
        for batch, length in CALLS:
            arrays = []
            for case in cases:
                inputs = case.inputs(batch, unknown=length if unknown else None)
                arrays += [*inputs, *case.padding(inputs).values()]
            expected = [numpy(x) for x in self.model(arrays, training=False)]
            self.calls.append((arrays, expected))

    def errors(self, run):
        """Returns the largest error of each case in roundings of its largest number."""
        errors = [0.0] * len(self.cases)
        for arrays, expected in self.calls:
            found = iter(zip(run(arrays), expected, strict=True))
            for index, count in enumerate(self.counts):
                for _ in range(count):
                    one, right = next(found)
                    assert one.shape == right.shape, (one.shape, right.shape)
                    rounding = np.finfo("float32").eps * np.abs(right).max(initial=1e-30)
                    error = float(np.abs(one - right).max(initial=0.0) / rounding)
                    errors[index] = max(errors[index], error if error == error else np.inf)
        return errors


@functools.cache
def sample(group, row, unknown):
    """The `Sample` of a row, or of all rows of a group if `row` is None."""
    rows = GROUPS[group]
    cases = rows[row] if row else [case for cases in rows.values() for case in cases]
    return Sample(cases, unknown)


class Exported:
    """A converted `sample`, whose file at `path` goes when this is forgotten."""

    def __init__(self, export, ending, group, row, unknown):
        # A `TemporaryDirectory` warns when it goes by itself.
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)
        self.path = pathlib.Path(folder) / f"model{ending}"
        one = sample(group, row, unknown)
        export(one.model, self.path, [one.signature])


# ONNX Runtime and OpenVINO run the same files.
exported = functools.lru_cache(maxsize=4)(Exported)


def verdicts(runtime, group):
    """Returns what the table says of each row of a group, and why not more."""
    found, reasons = dict.fromkeys(GROUPS[group], YES), {}

    def failed(row, unknown, why):
        found[row] = FIXED if unknown and found[row] == YES else NO
        reasons.setdefault((row, "open" if unknown else "fixed"), why)

    def check(rows, unknown, whole):
        row = None if whole else rows[0]
        file = exported(runtime.export, runtime.ending, group, row, unknown)
        errors = iter(sample(group, row, unknown).errors(runtime(file.path)))
        for name in rows:
            worst = max(next(errors) for _ in GROUPS[group][name])
            if not worst <= ROUNDINGS:
                failed(name, unknown, f"{worst:.3g} roundings")

    for unknown in (False, True):
        rows = list(GROUPS[group])
        try:
            check(rows, unknown, whole=True)
        except Exception:  # of one of them, which keeps the others from being converted
            for name in rows:
                try:
                    check([name], unknown, whole=False)
                except Exception as error:
                    failed(name, unknown, f"{type(error).__name__}: {error}"[:500])
    return found, reasons


def committed():
    """The table of docs/runtimes.md: for each row a dictionary from runtime to cell."""
    text = PAGE.read_text().split(FIRST)[1].split(LAST)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.strip().splitlines()
    ]
    titles = rows[0][1:]
    return {row[0]: dict(zip(titles, row[1:], strict=True)) for row in rows[2:]}


def write_table():
    """Measures every cell, and writes the table into docs/runtimes.md."""
    cells = {row: {} for rows in GROUPS.values() for row in rows}
    for group in GROUPS:
        for title, runtime in RUNTIMES.items():
            if not is_there(runtime):
                raise SystemExit(f"{title} needs the packages {runtime.packages}")
            found, reasons = verdicts(runtime, group)
            print(group, title, reasons or "all of it", flush=True)
            for row, cell in found.items():
                cells[row][title] = cell
    lines = [["", *RUNTIMES], ["---"] * (1 + len(RUNTIMES))]
    lines += [[row, *(found[title] for title in RUNTIMES)] for row, found in cells.items()]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    before, rest = PAGE.read_text().split(FIRST)
    after = rest.split(LAST)[1]
    PAGE.write_text(before + FIRST + table + LAST + after)


if __name__ == "__main__":
    write_table()
