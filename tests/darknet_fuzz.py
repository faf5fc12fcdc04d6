"""Feeds broken configurations and weight files to the importer.

    python tests/darknet_fuzz.py --inputs 100000
    python tests/darknet_fuzz.py --inputs 300 --build

Nothing but a `DarknetError` may come out, and within two seconds. With `--build`, what
survives the checks becomes a Keras model.
"""

import argparse
import collections
import pathlib
import time

import darknet_yolo
import numpy as np
from darknet_networks import random_cfg

from keras_sam import darknet
from keras_sam.darknet.geometry import floats
from keras_sam.darknet.plan import plan_network
from keras_sam.darknet.weights import read_planned_weights

SECONDS = 2
words = str.split
VECTORS = pathlib.Path(__file__).parent / "data" / "darknet"
NUMBERS = words("""0 1 -1 2 3 -2 7 32 1000000000 -1000000000 2147483647 2147483648
    -2147483648 99999999999999999999 4096 65536 1e9 1e999 nan inf 0x10 1.5 -0 007
    180###P6 , 1, ,1 0,0 1,2,3 -1,-2,-3,-4 -0.0 1e-45 3.4e38 -1e308 67108865 20000 16385
    \uff13 1_0 +""")
NAMES = words("""net network conv convolutional sam scale_channels shortcut route maxpool
    max local_avgpool local_avg avgpool avg upsample reorg3d reorg dropout activation
    batchnorm yolo region connected crop SAM softmax soft cost conn local detection
    Gaussian_yolo contrastive rnn crnn iseg""")
KEYS = words("""filters size stride stride_x stride_y pad padding groups group_id dilation
    batch_normalize activation share_index from layers weights_type scale classes num
    weights_normalization maxpool_depth out_channels scale_wh mask anchors new_coords
    scale_x_y antialiasing xnor width height channels probability reverse output
    temperature spatial tree coords side softmax sqrt crop_height crop_width noadjust
    alpha beta nms_kind beta_nms yolo_point classfix background dontload dontloadscales
    letter_box""")
WORDS = words("""mish linear logistic relu6 leaky none softmax relu per_channel bogus
    greedynms left_top silu""")


def seeds():
    """Returns well-formed configurations to start from."""
    rng = np.random.default_rng(0)
    paths = [*VECTORS.glob("*/*.cfg")]  # those of detections and partial, too
    texts = [path.read_text() for path in sorted(paths)]
    texts += [
        getattr(darknet_yolo, name)(width=1 / 16, size=64)
        for name in ("yolov3", "yolov3_tiny", "yolov4", "yolov4_tiny", "yolov4_sam")
    ]
    return texts + [random_cfg(rng, layers=8) for _ in range(40)]


def mutate(text, rng):
    """Returns `text` with a few things wrong, as text or as bytes."""

    def pick(choices):
        return choices[rng.integers(len(choices))]

    lines = text.split("\n")
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(lines)))
        kind = rng.integers(13)
        key, equals, _ = lines[at].partition("=")
        if kind <= 3 and equals:
            lines[at] = f"{key}={pick(NUMBERS)}"
        elif kind == 4 and equals:
            lines[at] = f"{key}={pick(WORDS)}"
        elif kind == 5:
            lines.insert(at, f"{pick(KEYS)}={pick([*NUMBERS, *WORDS])}")
        elif kind == 6:
            lines.insert(at, f"[{pick(NAMES)}]")
        elif kind == 7:
            del lines[at]
        elif kind == 8:
            other = int(rng.integers(len(lines)))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 9:
            lines[at] = lines[at] * int(rng.integers(1, 400))
        elif kind == 10:
            lines = lines[:at]
        elif kind == 11:
            lines[at] = lines[at].replace("=", pick(["", "==", " = ", "=#", "=\t-", "=["]))
        elif kind == 12:
            first, last = sorted(int(n) for n in rng.integers(len(lines), size=2))
            lines[at:at] = lines[first : min(last, first + 40)] * int(rng.integers(1, 30))
        lines = lines or [""]
    text = "\r\n".join(lines) if rng.random() < 0.1 else "\n".join(lines)
    if rng.random() < 0.1:
        data = bytearray(text.encode())
        for _ in range(rng.integers(1, 10)):
            if data:
                data[rng.integers(len(data))] = rng.integers(256)
        return bytes(data)
    return text


def weight_bytes(plan, rng):
    """Returns bytes that often are a weight file of the right length."""
    header = darknet.Header(0, int(rng.integers(3)), 5, int(rng.integers(1000)))
    data = header.to_bytes() + rng.bytes(4 * min(plan.weight_count, 10**5))
    kind = rng.integers(5)
    if kind == 0:
        data = data[: rng.integers(len(data))]
    elif kind == 1:
        data += rng.bytes(rng.integers(1, 20))
    elif kind == 2:
        data = rng.bytes(20) + data[20:]
    return data


def run(cfg, rng, build=False):
    """Runs one input; returns how far it came."""
    size = (None, None, 3) if rng.random() < 0.1 else None
    try:
        plan = plan_network(cfg, size)
        data = weight_bytes(plan, rng)
        partial, cutoff = rng.random() < 0.5, [None, *range(-1, 9)][rng.integers(11)]
        weights = read_planned_weights(data, plan, partial, cutoff)
        for index, name, values in weights.parts:
            assert len(values) < np.prod(plan.layers[index].blocks[name])
    except darknet.DarknetError as error:
        return "refused" if str(error) else "refused without a word"
    if not build or len(plan.layers) >= 40:
        return "accepted"
    model = darknet.build_model(cfg, data, size, partial, cutoff)
    small = all(floats(spec.shape) <= 10**6 for spec in plan.layers)
    if size is not None or not small:
        return "built"
    outputs = model(np.ones((1, *plan.input_shape), "float32"), training=False)
    if not plan.heads or len({head.classes for head in plan.heads}) > 1:
        return "built and called"
    found = darknet.decode(outputs, model, image_size=(7, 9), max_detections=9)
    assert found.boxes.shape == (1, 9, 4)
    return "built, called and decoded"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--build", action="store_true")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    texts = seeds()
    ends = collections.Counter()
    slowest = 0
    for number in range(arguments.inputs):
        cfg = mutate(texts[rng.integers(len(texts))], rng)
        start = time.process_time()
        try:
            end = run(cfg, rng, arguments.build)
        except BaseException:
            print(f"input {number} of seed {arguments.seed}:\n{cfg!r}")
            raise
        ends[end] += 1
        slowest = max(slowest, time.process_time() - start)
        if (number + 1) % max(1, arguments.inputs // 20) == 0:
            print(number + 1, dict(ends), f"slowest {slowest:.3f} s", flush=True)
    if slowest > SECONDS and not arguments.build:
        raise SystemExit(f"an input took {slowest:.2f} s")


if __name__ == "__main__":
    main()
