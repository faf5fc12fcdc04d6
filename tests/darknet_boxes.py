"""Darknet's boxes and their suppression, loop by loop in plain Python.

Written against the rules of docs/darknet.md only, and sharing no code with the
importer. A box is (x, y, w, h), its centre first.
"""

import itertools
import math

NEAR = 5e-6  # how near to a limit float32 might fall on the other side


class TooNearError(Exception):
    """A number is so near to a limit that rounding would decide."""


def above(value, limit):
    """Whether a value is above a limit, and not by rounding."""
    if abs(value - limit) < NEAR:
        raise TooNearError
    return value > limit


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def yolo(output, options, net):
    """Yields (box, objectness, scores) of a [yolo] layer's output `(C, H, W)`."""
    count = 5 + options["classes"]
    _, rows, columns = output.shape
    for n, (anchor_w, anchor_h) in enumerate(options["anchors"]):
        for j in range(rows):
            for i in range(columns):
                x, y, w, h, objectness, *classes = output[n * count : (n + 1) * count, j, i]
                if options.get("new_coords"):
                    w, h = w * w * 4, h * h * 4
                else:
                    w, h = math.exp(w), math.exp(h)
                box = (
                    (i + x) / columns,
                    (j + y) / rows,
                    w * anchor_w / net[1],
                    h * anchor_h / net[0],
                )
                yield box, objectness, [objectness * score for score in classes]


def gaussian(output, options, net):
    """The same of a [Gaussian_yolo]."""
    count = 9 + options["classes"]
    _, rows, columns = output.shape
    for n, (anchor_w, anchor_h) in enumerate(options["anchors"]):
        for j in range(rows):
            for i in range(columns):
                entries = output[n * count : (n + 1) * count, j, i]
                x, sx, y, sy, w, sw, h, sh, objectness, *classes = entries
                w = math.exp(w) * anchor_w / net[1]
                h = math.exp(h) * anchor_h / net[0]
                x, y = (i + x) / columns, (j + y) / rows
                if options.get("yolo_point") == "left_top":
                    x, y = x + w / 2, y + h / 2
                elif options.get("yolo_point") == "right_bottom":
                    x, y = x - w / 2, y - h / 2
                sure = 1 - (sx + sy + sw + sh) / 4
                scores = [objectness * score * sure for score in classes]
                yield (x, y, w, h), objectness, scores


def region(output, options, net):
    """The same of a [region], which has no limit for the objectness alone."""
    count = 5 + options["classes"]
    _, rows, columns = output.shape
    for n, (anchor_w, anchor_h) in enumerate(options["anchors"]):
        for j in range(rows):
            for i in range(columns):
                x, y, w, h, objectness, *classes = output[n * count : (n + 1) * count, j, i]
                box = (
                    (i + sigmoid(x)) / columns,
                    (j + sigmoid(y)) / rows,
                    math.exp(w) * anchor_w / columns,
                    math.exp(h) * anchor_h / rows,
                )
                if options.get("classfix") == -1 and not above(objectness, 0.5):
                    objectness = 0
                yield box, math.inf, [objectness * score for score in classes]


def detection(output, options, net):
    """The same of a [detection]: a vector of three blocks."""
    vector = output.reshape(-1)
    side, num, classes = options["side"], options["num"], options["classes"]
    for cell in range(side * side):
        row, column = divmod(cell, side)
        for n in range(num):
            confidence = vector[side * side * classes + cell * num + n]
            start = side * side * (classes + num) + (cell * num + n) * 4
            x, y, w, h = vector[start : start + 4]
            if options.get("sqrt"):
                w, h = w * w, h * h
            scores = vector[cell * classes : (cell + 1) * classes]
            box = ((x + column) / side, (y + row) / side, w, h)
            yield box, math.inf, [confidence * score for score in scores]


def uncrop(box, picture, net):
    """Takes a box out of a letterbox; pictures and networks are (height, width)."""
    x, y, w, h = box
    if net[1] / picture[1] < net[0] / picture[0]:
        new_w, new_h = net[1], picture[0] * net[1] // picture[1]
    else:
        new_h, new_w = net[0], picture[1] * net[0] // picture[0]
    x = (x - (net[1] - new_w) / 2 / net[1]) / (new_w / net[1])
    y = (y - (net[0] - new_h) / 2 / net[0]) / (new_h / net[0])
    return x, y, w * net[1] / new_w, h * net[0] / new_h


def overlap(a, b, kind, beta):
    """The IoU, less a term of the distance if the kind has one."""

    def sides(box):
        x, y, w, h = box
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2

    (left, top, right, bottom), (l2, t2, r2, b2) = sides(a), sides(b)
    width, height = min(right, r2) - max(left, l2), min(bottom, b2) - max(top, t2)
    shared = 0 if width < 0 or height < 0 else width * height
    union = a[2] * a[3] + b[2] * b[3] - shared
    iou = shared / union if shared and union else 0
    if kind not in ("greedynms", "diounms"):
        return iou
    width, height = max(right, r2) - min(left, l2), max(bottom, b2) - min(top, t2)
    c = width * width + height * height
    if c == 0:
        return iou
    d = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
    return iou - (d / c) ** (0.6 if kind == "greedynms" else beta)


def detect(heads, net, thresh, nms, kind="default", beta=0.6, picture=None):
    """Returns (score, class, box) of all heads after suppression, best first.

    Args:
        heads: Pairs of a generator's function above with its arguments.
        net: (height, width) of the network.
        picture: (height, width) of a letterboxed picture, or None.
    """
    kept = []
    for decoder, output, options in heads:
        for box, objectness, scores in decoder(output, options, net):
            if not above(objectness, thresh):
                continue
            if picture is not None:
                box = uncrop(box, picture, net)
            scores = [score if above(score, thresh) else 0 for score in scores]
            kept.append((box, scores))
    found = []
    for number in range(len(kept[0][1]) if kept else 0):
        order = sorted(kept, key=lambda one: -one[1][number])
        for position, (box, scores) in enumerate(order):
            if scores[number] == 0:
                continue
            found.append((scores[number], number, box))
            for other, other_scores in order[position + 1 :]:
                if other_scores[number] and above(overlap(box, other, kind, beta), nms):
                    other_scores[number] = 0
    found.sort(key=lambda one: -one[0])
    for (score, *_), (following, *_) in itertools.pairwise(found):
        if score - following < 1e-6:
            raise TooNearError
    return found
