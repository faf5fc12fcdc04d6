"""What `decode` finds: what the real Darknet found, and what plain loops find."""

import pathlib

import darknet_boxes
import numpy as np
import pytest

from keras_sam import darknet
from keras_sam.darknet.boxes import Candidates
from keras_sam.darknet.suppression import suppress

pytestmark = pytest.mark.tensorflow

CASES = pathlib.Path(__file__).parent / "data" / "darknet" / "detections"


def centers(boxes):
    """Top, left, bottom, right to x, y, width, height."""
    top, left, bottom, right = np.asarray(boxes).T
    return np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], 1)


def check(found, boxes, scores, classes, picture=0):
    """Compares the detections of one picture; nothing else may be found."""
    count = int((np.asarray(found.classes[picture]) >= 0).sum())
    assert count == len(scores)
    np.testing.assert_array_equal(found.classes[picture, :count], classes)
    np.testing.assert_allclose(found.scores[picture, :count], scores, atol=2e-5)
    ours = centers(found.boxes[picture, :count])
    np.testing.assert_allclose(ours, boxes, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", sorted(path.stem for path in CASES.glob("*.cfg")))
def test_case(name):
    """Equal in count, box, score and class to what the real program returned."""
    model = darknet.build_model(CASES / f"{name}.cfg")
    with np.load(CASES / f"{name}.npz") as arrays:
        case = {key: arrays[key] for key in arrays.files}
    outputs = model(case["input"].transpose(1, 2, 0)[None], training=False)
    found = darknet.decode(
        outputs,
        model,
        float(case["thresh"]),
        float(case["nms"]),
        max_detections=1000,
        image_size=case["picture"][::-1],
        letterbox=bool(case["letter"]),
    )
    check(found, case["boxes"], case["scores"], case["classes"])
    no_limit = {"iou_threshold": 2.0, "image_size": case["picture"][::-1]}
    before = darknet.decode(
        outputs,
        model,
        float(case["thresh"]),
        max_detections=1000,
        letterbox=bool(case["letter"]),
        **no_limit,
    )
    assert (np.asarray(before.classes) >= 0).sum() == len(case["scores_before_nms"])
    heads = [spec for spec in model.plan.layers if hasattr(spec, "nms_kind")]
    outputs = outputs if isinstance(outputs, list) else [outputs]
    for spec, output in zip(heads, outputs, strict=True):
        expected = case[f"layer_{spec.index:03d}"].transpose(1, 2, 0)
        if name == "region_pjreddie":  # its layer applies the logistic to x and y
            expected = np.where(np.arange(24) % 8 < 2, output[0], expected)
        np.testing.assert_allclose(output[0], expected, rtol=1e-4, atol=2e-5)


def lines(options):
    """The options of a section as its text."""
    anchors = ",".join(f"{w},{h}" for w, h in options.get("anchors", ()))
    options = {key: value for key, value in options.items() if key != "anchors"}
    text = "".join(f"{key}={value}\n" for key, value in options.items())
    return text + (
        f"anchors={anchors}\nnum={anchors.count(',') // 2 + 1}\n" * bool(anchors)
    )


def random_network(rng):
    """Returns a network of heads only, its heads and what rules their suppression."""

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    classes = int(rng.integers(1, 4))
    name = pick("yolo", "yolo", "two", "Gaussian_yolo", "region", "detection")
    net = tuple(int(n) for n in rng.integers(4, 11, 2))
    options = {"classes": classes}
    rule = {}
    if name == "detection":
        options |= {"side": 4, "num": 2, "coords": 4, "sqrt": pick(0, 1)}
        net, channels = (1, 1), 16 * (10 + classes)
        text = "[detection]\n" + lines(options)
        heads = [(darknet_boxes.detection, options, channels)]
    else:
        anchors = [(round(w, 2), round(h, 2)) for w, h in rng.uniform(1.5, 5, (2, 2))]
        options["anchors"] = anchors
        if name == "region":
            decoder, entries = darknet_boxes.region, 5
            options |= pick({}, {"softmax": 1}, {"classfix": -1})
        else:
            decoder, entries = darknet_boxes.yolo, 5
            kind = pick("default", "greedynms", "diounms", "cornersnms", "bogus")
            rule = {"nms_kind": kind, "beta_nms": pick(0.6, 1.0, 0.3)}
            options |= rule | {"scale_x_y": pick(1, 1.05, 2)}
            if name == "Gaussian_yolo":
                decoder, entries = darknet_boxes.gaussian, 9
                options["yolo_point"] = pick("center", "left_top", "right_bottom")
            else:
                options["new_coords"] = pick(0, 1)
        channels = 2 * (entries + classes)
        section = "yolo" if name == "two" else name
        text = f"[{section}]\n" + lines(options)
        heads = [(decoder, options, channels)]
        if name == "two":
            other = options | {"nms_kind": "greedynms"}
            text = f"[yolo]\n{lines(other)}[local_avg]\nsize=2\n" + text
            heads = heads * 2
    top = f"[net]\nheight={net[0]}\nwidth={net[1]}\nchannels={channels}\n"
    return top + text, net, heads, rule


@pytest.mark.parametrize("seed", range(40))
def test_like_loops(seed):
    """Random heads, thresholds, kinds of suppression and letterboxes."""
    rng = np.random.default_rng(seed)
    cfg, net, heads, rule = random_network(rng)
    thresh, nms = rng.uniform(0.1, 0.4), rng.uniform(0.2, 0.6)
    picture = tuple(int(n) for n in rng.integers(100, 300, 2))
    letter = bool(rng.integers(2)) and heads[0][0] is not darknet_boxes.detection
    count = 2  # pictures
    for _ in range(60):  # until nothing is too near to a limit
        x = rng.normal(0, 1, (count, *net, heads[0][2])).astype("float32")
        if "new_coords=1" in cfg or heads[0][0] is darknet_boxes.detection:
            x = 1 / (1 + np.exp(-x))
        model = darknet.build_model(cfg)
        outputs = model(x, training=False)
        listed = outputs if isinstance(outputs, list) else [outputs]
        try:
            expected = [
                darknet_boxes.detect(
                    [
                        (decoder, np.asarray(output[n], "float64").transpose(2, 0, 1), o)
                        for (decoder, o, _), output in zip(heads, listed, strict=True)
                    ],
                    net,
                    np.float32(thresh),
                    np.float32(nms),
                    rule.get("nms_kind", "default"),
                    rule.get("beta_nms", 0.6),
                    picture if letter else None,
                )
                for n in range(count)
            ]
        except darknet_boxes.TooNearError:
            continue
        break
    else:
        pytest.fail("every head was too near to a limit")
    found = darknet.decode(
        outputs,
        model,
        thresh,
        nms,
        max_detections=700,
        image_size=[picture] * count,
        letterbox=letter,
    )
    assert any(expected)
    for n, detections in enumerate(expected):
        if not detections:
            assert (np.asarray(found.classes[n]) == -1).all()
            continue
        scores, classes, boxes = zip(*detections, strict=True)
        check(found, boxes, scores, classes, n)


@pytest.mark.parametrize(("classes", "most"), [(1, 5000), (3, 5000), (3, 50), (80, 700)])
def test_many_candidates_like_tensorflow(classes, most):
    """Thousands are taken block by block; TensorFlow has the plain IoU, too."""
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(classes)
    boxes = rng.uniform(0.05, 0.3, (2, 1500, 4)).astype("float32")
    boxes[..., :2] = rng.uniform(0, 1, (2, 1500, 2))
    scores = rng.permutation(3000 * classes).reshape(2, 1500, classes)  # no ties
    scores = (scores / scores.size).astype("float32")
    candidates = Candidates(tf.constant(boxes), tf.fill((2, 1500), np.inf), scores)
    ours = suppress(candidates, None, 0.4, 0.4, most)
    corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2] * 2, axis=-1)
    corners[..., 2:] += boxes[..., 2:]
    theirs = tf.image.combined_non_max_suppression(
        corners[:, :, None],
        scores,
        max_output_size_per_class=1500,
        max_total_size=most,
        iou_threshold=0.4,
        score_threshold=0.4,
        clip_boxes=False,
    )
    assert (scores > 0.4).sum() > 1024
    counts = (np.asarray(ours[2]) >= 0).sum(axis=1)
    np.testing.assert_array_equal(counts, theirs.valid_detections)
    np.testing.assert_array_equal(ours[1], theirs.nmsed_scores)
    np.testing.assert_array_equal(np.maximum(ours[2], 0), theirs.nmsed_classes)


HEAD = "[net]\nheight=8\nwidth=8\nchannels=7\n{}[yolo]\nclasses=2\nanchors=2,2\n"


@pytest.mark.parametrize(
    ("section", "channels"),
    [("yolo", 10), ("region", 10), ("Gaussian_yolo", 18), ("detection", 10)],
)
@pytest.mark.parametrize("batch", [0, 2])
def test_nothing_to_find(section, channels, batch):
    """Heads without classes, and batches without pictures."""
    options = "classes=0\nnum=2\nanchors=1,1,2,2\ncoords=4\nside=4\nsoftmax=1\n"
    cfg = f"[net]\nheight=4\nwidth=4\nchannels={channels}\n[{section}]\n{options}"
    outputs = darknet.build_model(cfg)(np.ones((batch, 4, 4, channels), "float32"))
    found = darknet.decode(outputs, cfg, max_detections=3)
    assert found.boxes.shape == (batch, 3, 4)
    assert (np.asarray(found.classes) == -1).all()


def test_labels():
    tf = pytest.importorskip("tensorflow")
    x = np.full((1, 8, 8, 7), -9, "float32")
    x[0, 2, 3, 2:] = 0, 0, 9, -9, 9
    names = ["cat", "dog", "not asked for"]
    model = darknet.build_model(HEAD.format(""))
    outputs = model(x)
    found = darknet.decode(outputs, model, max_detections=2, names=names)
    assert found.labels.numpy().tolist() == [[b"dog", b""]]
    assert found.classes.numpy().tolist() == [[1, -1]]

    @tf.function
    def detect(outputs):
        return darknet.decode(outputs, model, max_detections=2, names=names)

    compiled = detect(outputs)
    assert type(compiled) is darknet.LabeledDetections
    assert compiled.labels.numpy().tolist() == [[b"dog", b""]]


def test_letter_box_of_net():
    """It counts when the size of the picture is given, and can be overruled."""
    x = np.zeros((1, 8, 8, 7), "float32")
    plain, boxed = HEAD.format(""), HEAD.format("letter_box=1\n")
    assert darknet.build_model(boxed).plan.letterbox

    def boxes(cfg, **options):
        found = darknet.decode(x + 0.9, cfg, max_detections=64, **options)
        return np.sort(np.asarray(found.boxes), axis=1)

    wide = boxes(plain, image_size=(10, 40), letterbox=True)
    np.testing.assert_array_equal(boxes(boxed, image_size=(10, 40)), wide)
    stretched = boxes(plain, image_size=(10, 40))
    assert np.abs(wide - stretched).max() > 0.5
    np.testing.assert_array_equal(boxes(boxed), stretched)
    np.testing.assert_array_equal(
        boxes(boxed, image_size=(10, 40), letterbox=False), stretched
    )


def test_pictures_of_several_sizes():
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 7)).astype("float32")
    sizes = [(30, 40), (50, 20)]
    together = darknet.decode(x, HEAD.format(""), image_size=sizes, letterbox=True)
    for n, size in enumerate(sizes):
        one = darknet.decode(x[n : n + 1], HEAD.format(""), image_size=size, letterbox=True)
        np.testing.assert_array_equal(together.boxes[n], one.boxes[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"letterbox": True}, "`image_size` must be given"),
        ({"letterbox": True, "image_size": (0, 4)}, "`image_size` must be"),
        ({"letterbox": True, "image_size": (1, 2, 3)}, "`image_size` must be"),
        ({"letterbox": True, "image_size": (1.5, 2)}, "`image_size` must be"),
        ({"names": ["cat"]}, "`names` must be a list of 2"),
        ({"names": [1, 2]}, "`names` must be a list of 2"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        darknet.decode(np.zeros((1, 8, 8, 7), "float32"), HEAD.format(""), **options)


def test_heads_of_different_classes():
    cfg = HEAD.format("") + "[route]\nlayers=-1\n[yolo]\nclasses=0\nnum=1\n"
    cfg = cfg.replace("[route]\nlayers=-1\n", "[conv]\nfilters=5\n")
    with pytest.raises(darknet.DarknetError, match="different numbers of classes"):
        darknet.decode([np.zeros((1, 8, 8, 7)), np.zeros((1, 8, 8, 5))], cfg)
