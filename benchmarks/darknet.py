"""Time and memory to build a full-size network from a .cfg and its .weights.

    python benchmarks/darknet.py [yolov3 | yolov3_tiny | yolov4 | yolov4_tiny | yolov4_sam]

The weights are random. Each step is printed with its seconds and the peak of resident
memory so far; the first line is what Keras itself takes.
"""

import argparse
import pathlib
import resource
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))


class Steps:
    def __init__(self):
        self.start = time.perf_counter()
        print(f"{'step':<28}{'seconds':>9}{'peak MiB':>10}")

    def done(self, name):
        now = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:<28}{now - self.start:>9.2f}{peak:>10.0f}", flush=True)
        self.start = time.perf_counter()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", nargs="?", default="yolov4")
    arguments = parser.parse_args()

    steps = Steps()
    import darknet_yolo
    import numpy as np

    from keras_sam import darknet
    from keras_sam.darknet.plan import plan_network

    steps.done("import")
    text = getattr(darknet_yolo, arguments.network)()
    plan = plan_network(text)
    steps.done("parse and check")
    with tempfile.TemporaryDirectory() as directory:
        weights = pathlib.Path(directory, "model.weights")
        rng = np.random.default_rng(0)
        with weights.open("wb") as file:
            file.write(darknet.Header().to_bytes())
            rng.uniform(0, 0.01, plan.weight_count).astype("<f4").tofile(file)
        steps.done("(draw the weights)")
        model = darknet.build_model(text, weights)
        steps.done("build and load the weights")
        height, width, channels = plan.input_shape
        model(np.zeros((1, height, width, channels), "float32"), training=False)
        steps.done("first picture, eagerly")
        darknet.write_weights(model, pathlib.Path(directory, "again.weights"))
        steps.done("write the weights")
    print(f"{len(plan.layers)} layers, {plan.weight_count:,} weights")


if __name__ == "__main__":
    main()
