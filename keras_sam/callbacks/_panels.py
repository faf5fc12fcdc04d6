"""The pages that each kind of attention is drawn on."""

import numpy as np

from keras_sam.callbacks._colors import Multiples, Range, number
from keras_sam.callbacks._heatmaps import LARGEST_SIDE, Axis, HeatMap
from keras_sam.callbacks._pages import Page
from keras_sam_viewer.pooling import pool_gate
from keras_sam_viewer.steps import plane

_UNIFORM = "times the weight of uniform attention"


def page(layer, survey, example, labels=None, picture=None):
    """Returns the `Page` of one example of a layer.

    Args:
        layer: A `keras_sam_viewer.layers.Layer`.
        survey: What was read of it, a `Survey`.
        example: The index of the example.
        labels: A pair of lists with the words of queries and keys, or None.
        picture: The picture `(H, W, 3)` that the positions belong to, or None.
    """
    if layer.is_pairs:
        return _pairs(layer, survey, example, labels, picture)
    if layer.is_gate:
        return _gates(layer, example, picture)
    return _parts(layer, survey, example, labels, picture)


def _pairs(layer, survey, example, labels, picture):
    found = survey.maps[example]
    rows, columns = (
        Axis(_padded(words, length))
        for words, length in zip(labels or (None, None), found.shape, strict=True)
    )
    scale = Multiples(int(found.keys.max(initial=1)))
    received = found.received() if _is_picture(layer.key_grid, layer.shape[1]) else None
    panels = []
    for head, multiples in enumerate(found.multiples):
        largest, multiple = found.largest[head], found.largest_multiple[head]
        matrix = HeatMap(
            multiples,
            scale,
            f"head {head}",
            f"max {number(largest)}, {times(multiple)}" if multiple else "no choice",
            allowed=_visible(multiples),
            rows=rows,
            columns=columns,
            steps=found.steps,
        )
        panels.append([matrix])
        if received is not None:
            whole = np.full(layer.shape[1], -1, np.float32)
            whole[: received.shape[1]] = received[head]
            maps = _over(whole, layer.key_grid, scale, "received", picture)
            panels[-1] += maps
    note = "Rows: queries. Columns: keys."
    if received is not None:
        note += " Received: mean over the queries."
    if found.shape != layer.shape:
        whole, shown = (" x ".join(map(str, sizes)) for sizes in (layer.shape, found.shape))
        note += f" {whole}, {shown} shown: the rest is padding."
    if max(found.steps) > 1:
        steps = " x ".join(map(str, found.steps))
        note += f" {steps} weights share a cell, which has their maximum."
    return Page(panels, note, [(_UNIFORM, scale)])


def _parts(layer, survey, example, labels, picture):
    weights, allowed = layer.parts(example)
    whole = weights.shape[1]
    if allowed is None:
        allowed = np.ones((1, whole), bool)
    keys = allowed.sum(1)
    multiples = np.where(allowed, weights * np.float32(keys)[:, None], -1)
    scale = Multiples(int(keys.max()))
    legends = [(_UNIFORM, scale)]
    captions = [
        f"max {number(largest)}, {times(largest * keys.max())}"
        for largest in np.nan_to_num(weights, posinf=0).max(1)
    ]
    if _is_picture(layer.key_grid, whole):
        heads = [
            _over(row, layer.key_grid, scale, f"head {head}", picture, captions[head])
            for head, row in enumerate(multiples)
        ]
        return Page(heads, "Positions of the input.", legends)
    length = max(1, survey.extent.key_lengths[example])  # padding alone is one cell
    strips = pool_gate(multiples[:, :length], LARGEST_SIDE)
    step = -(-length // strips.shape[1])
    strip = HeatMap(
        strips,
        scale,
        "weights",
        captions[0] if len(captions) == 1 else "",
        allowed=_visible(strips),
        rows=Axis(),
        columns=Axis(_padded(labels and labels[1], length)),
        steps=(1, step),
    )
    note = f"Rows: heads. Columns: {'features' if layer.are_features else 'parts'}."
    if length != whole:
        note += f" {whole}, {length} shown: the rest is padding."
    return Page([[strip]], note, legends)


def _gates(layer, example, picture):
    gate = layer.gate(example)
    known = gate[np.isfinite(gate)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    whole, own = Range(), Range(float(low), float(high))
    flat = plane(gate, gate.shape)
    is_map = gate.ndim > 1
    shown = pool_gate(flat, LARGEST_SIDE)
    common = {
        "square": is_map,
        "rows": Axis() if is_map else None,
        "columns": Axis(),
        "steps": tuple(-(-n // m) for n, m in zip(flat.shape, shown.shape, strict=True)),
        "size": flat.shape,
    }
    both = f"{number(low)} to {number(high)}"
    panel = [
        HeatMap(shown, whole, "0 to 1", "the gate", **common),
        HeatMap(shown, own, both, "its own range", **common),
    ]
    if is_map and picture is not None and gate.ndim == 2:
        over = {**common, "picture": picture}
        panel.append(HeatMap(shown, own, "over the input", "clear: high gates", **over))
    note = "Channels." if layer.kind == "channel" else "Positions of the input."
    if layer.kind == "pointwise_spatial":
        note += " Mean over the channels."
    # Low strips may stand below each other.
    panels = [panel] if is_map else [[heat_map] for heat_map in panel]
    legends = [("the gate", whole), ("its own range", own)]
    return Page(panels, note, legends)


def _over(row, grid, scale, title, picture, caption=""):
    """Returns the map of the positions of a grid, and the same over the picture."""
    flat = plane(row, grid)
    shown = pool_gate(flat, LARGEST_SIDE)
    common = {
        "allowed": _visible(shown),
        "square": True,
        "steps": tuple(-(-n // m) for n, m in zip(flat.shape, shown.shape, strict=True)),
        "size": flat.shape,
    }
    caption = caption or f"up to {times(np.nan_to_num(flat, posinf=0).max())}"
    maps = [HeatMap(shown, scale, title, caption, **common)]
    if picture is not None and len(grid) == 2:
        over = {**common, "picture": picture}
        maps.append(HeatMap(shown, scale, "over the input", "clear: weight", **over))
    return maps


def times(multiple):
    """Writes a multiple of uniform attention, such as `14x`."""
    return f"{multiple:.2g}x" if multiple < 99.5 else f"{multiple:.0f}x"


def _visible(multiples):
    """Returns which values are not masked; None when all are."""
    masked = multiples < 0
    return ~masked if masked.any() else None


def _padded(words, length):
    """Returns words as labels of so many positions, with numbers after the last word."""
    if words is None:
        return None
    return (*words[:length], *map(str, range(len(words), length)))


def _is_picture(grid, length):
    return grid is not None and len(grid) > 1 and np.prod(grid) == length
