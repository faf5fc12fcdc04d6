"""How long does a model take from a cold start, when nearly every batch has a new length?

Each example has a random length, and each batch is padded to its longest. The last batch
of an epoch is smaller. Three ways to use a small text classifier (embedding with a mask,
attention of 8 heads and width 128, mean, dense layer) ::

    train      model.train_on_batch
    predict    model.predict_on_batch
    eager      model(x)

with keras_sam.SelfAttention and with keras.layers.MultiHeadAttention, each in a process
of its own. The two take turns of 10 steps, and the time of all steps is what counts:
tracing and compiling included, importing and building the model not. Memory is the growth
of the process, at most. Programs are what XLA compiled.

"served" is a SavedModel of unknown batch and length (4 heads, width 64), asked by 8 threads
for 800 random shapes: with block_size="auto", and with block_size=None, in turns, each in
a process of its own that knows neither Keras nor this library.

    python benchmarks/lengths.py                         # all: about an hour
    python benchmarks/lengths.py --case middle --batch 16 --mode train
    python benchmarks/lengths.py --case served
    python benchmarks/lengths.py --quick                 # to see that it runs

A process that needs more than `--memory` or `--patience` is ended, and the table has the
reason. The largest cases take fewer steps than 60; the table has the number.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time

import turns

VOCABULARY, WIDTH, HEADS = 1000, 128, 8
CASES = {"short": (20, 60), "middle": (150, 400), "long": (900, 2000)}
BATCHES = (1, 16, 64)
MODES = ("train", "predict", "eager")
STEPS = 60
FEWER_STEPS = {("long", 16): 20, ("long", 64): 10}
STEPS_OF_A_TURN = 10
STEPS_OF_AN_EPOCH = 20  # or of the whole run, if that is shorter

SERVED = {"heads": 4, "width": 64, "lengths": (20, 600), "batches": (1, 8)}
THREADS, REQUESTS = 8, 800

# At most this share of Keras's time; and for "served" of the latency with all rows at once,
# and MiB that the process may grow by from when the model is loaded.
TARGETS = {"short": 1.1, "middle": 1.1, "long": 1.0}
SERVED_TARGETS = {"median": 1.1, "p95": 1.1, "growth": 500}

# A line for each program that XLA compiles, on standard error.
LOG_PROGRAMS = {
    "TF_CPP_MIN_LOG_LEVEL": "0",
    "TF_CPP_VMODULE": "device_compilation_profiler=1",
}
COMPILED = "times, compile time:"


def batches(case):
    """The batches of all steps, equal for all contenders."""
    import numpy as np

    generator = np.random.default_rng(0)
    low, high = case["lengths"]
    epoch = min(STEPS_OF_AN_EPOCH, case["steps"])
    for step in range(case["steps"]):
        is_last = step % epoch == epoch - 1
        size = max(1, case["batch"] * 2 // 5) if is_last else case["batch"]
        lengths = generator.integers(low, high, size, endpoint=True)
        tokens = generator.integers(1, VOCABULARY, (size, lengths.max()))
        tokens[np.arange(lengths.max()) >= lengths[:, None]] = 0
        yield tokens.astype("int32"), generator.integers(0, 2, size)


def classifier(attention, width):
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, width, mask_zero=True),
            attention,
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def keras_attention():
    """Keras's layer, called with one tensor, its mask passed on."""
    import keras

    class SelfMultiHeadAttention(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking = True
            self.attend = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)

        def build(self, shape):
            self.attend.build(shape, shape)

        def call(self, x, mask=None):
            return self.attend(x, x, query_mask=mask, value_mask=mask, key_mask=mask)

    return SelfMultiHeadAttention()


def make(case):
    """Returns a function that takes one step of one contender."""
    import keras_sam

    ours = case["contender"] == "ours"
    model = classifier(keras_sam.SelfAttention(HEADS) if ours else keras_attention(), WIDTH)
    data = batches(case)

    def step():
        tokens, labels = next(data)
        if case["mode"] == "train":
            model.train_on_batch(tokens, labels)
        elif case["mode"] == "predict":
            model.predict_on_batch(tokens)
        else:
            model(tokens).numpy()

    return step


def serve():
    """Runs in a contender's process: takes as many steps as each line says."""
    case = json.loads(sys.argv[2])
    if "folder" in case:
        return serve_saved_model(case)
    step = make(case)
    turns.forget_peak()
    before = turns.memory("VmRSS")
    turns.say(ready=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = time.perf_counter() - begin
        turns.say(s=seconds, mib=(turns.memory("VmHWM") - before) / 2**20)


class Watch(threading.Thread):
    """Ends a process that needs too much memory or time, and knows the reason."""

    def __init__(self, process, options):
        super().__init__(daemon=True)
        self.process = process
        self.most, self.patience = options.memory, options.patience
        self.reason = None
        self.start()

    def run(self):
        end = time.monotonic() + self.patience
        while self.process.poll() is None and self.reason is None:
            time.sleep(0.1)
            if turns.memory("VmRSS", self.process.pid) > self.most * 2**30:
                self.reason = f"over {self.most:g} GiB"
            elif time.monotonic() > end:
                self.reason = f"over {self.patience:g} s"
        if self.reason:
            self.process.kill()


class Contender:
    """A process that takes steps when it is asked to."""

    def __init__(self, case, options):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed in `end`
        environment = {**os.environ, **LOG_PROGRAMS, "KERAS_BACKEND": "tensorflow"}
        self.process = turns.start(__file__, case, self.errors, environment)
        self.watch = Watch(self.process, options)
        self.result = {"s": 0.0, "mib": 0.0, "steps": 0}
        self._take(turns.hear(self.process))

    def step(self, count):
        if "error" not in self.result:
            time.sleep(turns.PAUSE)
            self._take(turns.ask(self.process, str(count)), count)

    def _take(self, answer, steps=0):
        if "error" in answer:
            self.result["error"] = self.watch.reason or answer["error"]
        elif "s" in answer:
            self.result["s"] += answer["s"]
            self.result["steps"] += steps
            self.result["mib"] = answer["mib"]

    def end(self):
        """Ends the process and returns what was measured."""
        self.process.stdin.close()
        self.process.wait()
        with self.errors:
            self.errors.seek(0)
            self.result["programs"] = sum(COMPILED in line for line in self.errors)
        return self.result


def race(case, options):
    """Returns the results of both contenders, medians over rounds."""
    rounds = {"ours": [], "keras": []}
    for _ in range(options.rounds):
        some = {who: Contender({**case, "contender": who}, options) for who in rounds}
        for first in range(0, case["steps"], STEPS_OF_A_TURN):
            for contender in some.values():
                contender.step(min(STEPS_OF_A_TURN, case["steps"] - first))
        for who, contender in some.items():
            rounds[who].append(contender.end())
    return {who: middle(results) for who, results in rounds.items()}


def middle(results):
    """The result with the median time, or one that has an error."""
    failed = [result for result in results if "error" in result]
    return failed[0] if failed else sorted(results, key=lambda r: r["s"])[len(results) // 2]


def print_race(case, results):
    title = f"{case['name']} {case['batch']} {case['mode']}"
    for who, result in results.items():
        line = f"{title:20}{who:7}{result['steps']:4} of {case['steps']:2}"
        line += f"{result['s']:10.2f} s{result['mib']:8.0f} MiB{result['programs']:6}"
        if who == "ours" and not any("error" in each for each in results.values()):
            line += f"{result['s'] / results['keras']['s']:10.2f} x"
        print(line, result.get("error", ""), flush=True)


def print_targets(rows):
    for case, results in rows:
        ours, keras = results["ours"], results["keras"]
        title = f"  {case['name']} {case['batch']} {case['mode']}, against keras:"
        wanted = TARGETS[case["name"]]
        if "error" in ours:
            print(f"{title:40} ours was ended, {ours['error']}: NOT MET")
        elif "error" in keras:
            print(f"{title:40} keras was ended, {keras['error']}: met")
        else:
            print_target(title, ours["s"] / keras["s"], "x the time", wanted)


def print_target(title, found, what, wanted):
    verdict = "met" if found <= wanted else "NOT MET"
    print(f"{title:40} {found:8.2f} {what}, at most {wanted:g}: {verdict}")


# Served


def export(folder, block_size):
    import keras_sam

    attention = keras_sam.SelfAttention(SERVED["heads"], block_size=block_size)
    classifier(attention, SERVED["width"]).export(folder, verbose=False)


def serve_saved_model(case):
    """Exports a model, or asks a saved one from many threads."""
    if case["contender"] == "export":
        for name, size in (("auto", "auto"), ("None", None)):
            export(f"{case['folder']}/{name}", size)
        return turns.say(ready=True)
    import numpy as np
    import tensorflow as tf

    served = tf.saved_model.load(f"{case['folder']}/{case['contender']}")
    turns.forget_peak()
    before = turns.memory("VmRSS")
    turns.say(ready=True)
    sys.stdin.readline()
    latencies = [[] for _ in range(THREADS)]

    def ask(index):
        generator = np.random.default_rng(index)
        for _ in range(case["requests"] // THREADS):
            batch = generator.integers(*SERVED["batches"], endpoint=True)
            length = generator.integers(*SERVED["lengths"], endpoint=True)
            tokens = generator.integers(1, VOCABULARY, (batch, length)).astype("int32")
            begin = time.perf_counter()
            served.serve(tokens).numpy()
            latencies[index].append(time.perf_counter() - begin)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(THREADS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return turns.say(
        s=time.perf_counter() - begin,
        mib=(turns.memory("VmHWM") - before) / 2**20,
        growth=(turns.memory("VmRSS") - before) / 2**20,
        latencies=[1000 * seconds for some in latencies for seconds in some],
    )


def ask_saved_models(options):
    """Returns by block size the latencies of all rounds, in ms, and the largest growth."""
    results = {name: {"ms": [], "growth": 0.0, "programs": 0} for name in ("auto", "None")}
    with tempfile.TemporaryDirectory() as folder:
        case = {"folder": folder, "requests": options.requests}
        Contender({**case, "contender": "export"}, options).end()
        for _ in range(options.rounds):
            for name, result in results.items():
                asked = Contender({**case, "contender": name}, options)
                answer = turns.ask(asked.process, "run")
                result["programs"] = max(result["programs"], asked.end()["programs"])
                if "error" in answer:
                    result["error"] = asked.watch.reason or answer["error"]
                    continue
                result["ms"] += answer["latencies"]
                result["growth"] = max(result["growth"], answer["growth"])
    for result in results.values():
        if "error" not in result:
            result["median"] = statistics.median(result["ms"])
            result["p95"] = statistics.quantiles(result["ms"], n=20)[-1]
    return results


def print_served(results):
    print(f"\n{'served':20}{'median':>13}{'95%':>13}{'growth':>13}{'programs':>10}")
    for name, result in results.items():
        name = f"block_size={name}"
        if "error" in result:
            print(f"{name:20} ended, {result['error']}")
            continue
        print(
            f"{name:20}{result['median']:10.1f} ms{result['p95']:10.1f} ms"
            f"{result['growth']:9.0f} MiB{result['programs']:10}"
        )


def print_served_targets(results):
    ours, plain = results["auto"], results["None"]
    if "error" in ours or "error" in plain:
        print("  served: a process was ended: NOT MET")
        return
    for what in ("median", "p95"):
        ratio, wanted = ours[what] / plain[what], SERVED_TARGETS[what]
        print_target("  served, against all rows at once:", ratio, f"x the {what}", wanted)
    print_target("  served:", ours["growth"], "MiB more", SERVED_TARGETS["growth"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    choices = [*CASES, "served"]
    parser.add_argument("--case", choices=choices, action="append", help="only this one")
    parser.add_argument("--batch", type=int, action="append", help="only this one")
    parser.add_argument("--mode", choices=MODES, action="append", help="only this one")
    parser.add_argument("--steps", type=int, help="at most so many")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="to a SavedModel")
    parser.add_argument("--rounds", type=int, default=1, help="cold starts of each")
    parser.add_argument("--memory", type=float, default=16, help="GiB for a process")
    parser.add_argument("--patience", type=float, default=900, help="s for a process")
    parser.add_argument("--quick", action="store_true", help="a few steps of a few cases")
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    options = parser.parse_args()
    if options.quick:
        options.case = options.case or ["short", "served"]
        options.batch = options.batch or [2]
        options.steps, options.requests = options.steps or 3, 16
    rows, served = [], None
    print(
        f"{'case':20}{'':7}{'steps':>10}{'time':>12}{'memory':>12}{'programs':>10}", end=""
    )
    print("   ours/keras")
    for name in [name for name in options.case or choices if name in CASES]:
        for batch in options.batch or BATCHES:
            for mode in options.mode or MODES:
                steps = FEWER_STEPS.get((name, batch), STEPS)
                case = {
                    "name": name,
                    "lengths": CASES[name],
                    "batch": batch,
                    "mode": mode,
                    "steps": min(steps, options.steps or steps),
                }
                results = race(case, options)
                print_race(case, results)
                rows.append((case, results))
    if "served" in (options.case or choices):
        served = ask_saved_models(options)
        print_served(served)
    print("\nTargets:")
    print_targets(rows)
    if served:
        print_served_targets(served)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps([rows, served], indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve()
    else:
        main()
