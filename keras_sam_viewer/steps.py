"""The records of one run: `meta`, and for each step `stats` and maps."""

import dataclasses
import time

import numpy as np

from keras_sam_viewer import codes, maps, records
from keras_sam_viewer.pooling import MaximumPool, pool_gate
from keras_sam_viewer.statistics import (
    STATISTICS,
    PairStatistics,
    gate_statistics,
    part_statistics,
)

THUMBNAIL = 32


@dataclasses.dataclass(frozen=True)
class Options:
    """How weights are kept.

    Args:
        levels: The largest code of a weight: 255, or 63 for smaller records.
        fine: Whether maps of pairs have 16 bits, for small ones.
    """

    levels: int = codes.LEVELS
    fine: bool = False


PLAIN = Options()


@dataclasses.dataclass(frozen=True)
class LayerRecords:
    """What a step keeps of one layer.

    Args:
        statistics: Float32 array `(B, H, statistics)`.
        thumbnails: Uint8 array `(B, H, h, w)`.
        ranges: Float32 array `(B, H, 2)` of the codes of gates, or None.
        maps: Attributes and arrays for each example.
    """

    statistics: np.ndarray
    thumbnails: np.ndarray
    ranges: np.ndarray | None
    maps: list


def encode_layer(layer, extent, options=PLAIN):
    """Returns the `LayerRecords` of a `Layer`, of which it reads every row once."""
    if layer.is_pairs:
        return _encode_pairs(layer, extent, options)
    encode = _encode_gate if layer.is_gate else _encode_parts
    each = [encode(layer, extent, example) for example in range(layer.examples)]
    statistics, thumbnails, ranges, found = zip(*each, strict=True)
    return LayerRecords(
        np.stack(statistics),
        np.stack(thumbnails),
        np.stack(ranges) if layer.is_gate else None,
        list(found),
    )


def _encode_pairs(layer, extent, options):
    shape = layer.heads, *layer.shape
    code = maps.code_of(layer.heads, layer.shape, options.fine)
    lengths = list(zip(extent.query_lengths, extent.key_lengths, strict=True))
    # The thumbnails of all examples are of one size.
    longest = max(extent.query_lengths), max(extent.key_lengths)
    measured, pools, wholes = [], [], []
    for length in lengths:
        measured.append(
            PairStatistics(shape, layer.kind == "self", layer.query_grid, layer.key_grid)
        )
        pools.append(MaximumPool.to_fit(layer.heads, *longest, THUMBNAIL))
        if code == "sparse":
            wholes.append(maps.SparseMap(shape, *length, options.levels))
        else:
            wholes.append(maps.WholeMap(shape, code, options.levels))
    for rows in layer.rows():
        for consumers in (measured, pools, wholes):
            for consumer, block in zip(consumers, rows, strict=True):
                consumer.add(block)
    return LayerRecords(
        np.stack([_in_order(each.result()) for each in measured]),
        np.stack([codes.encode_octaves(pool.values) for pool in pools]),
        None,
        [whole.result(*length) for whole, length in zip(wholes, lengths, strict=True)],
    )


def _encode_parts(layer, extent, example):
    weights, allowed = layer.parts(example)
    keys = weights.shape[1] if allowed is None else allowed.sum(1)
    multiples = weights * np.reshape(np.float32(keys), (-1, 1))
    if allowed is not None:
        multiples = np.where(allowed, multiples, np.float32(-1))
    grid = layer.key_grid
    if grid is None or np.prod(grid) != weights.shape[1]:
        grid = (max(1, max(extent.key_lengths)),)
    cells = int(np.prod(grid))
    planes = [pool_gate(plane(head[:cells], grid), THUMBNAIL) for head in multiples]
    statistics = _in_order(part_statistics(weights, allowed))
    thumbnails = codes.encode_octaves(np.stack(planes))
    return statistics, thumbnails, None, maps.part_map(weights, allowed)


def _encode_gate(layer, extent, example):
    gate = layer.gate(example)
    small = pool_gate(plane(gate, gate.shape), THUMBNAIL)
    ranges, thumbnail = codes.encode_range(small[None], 254, np.uint8, first=1)
    statistics = _in_order(gate_statistics(gate, layer.kind != "channel"))
    return statistics, thumbnail, ranges, maps.gate_map(gate)


def plane(values, grid):
    """Lays values out on a plane: a row for a sequence, slices beside each other."""
    if len(grid) < 2:
        return values.reshape(1, -1)
    return np.hstack(list(values.reshape(-1, *grid[-2:])))


def _in_order(statistics):
    return np.stack([statistics[name] for name in STATISTICS], -1)


def encode_stats(layers, step, scalars=None, wall_time=None):
    """Returns the blob of the statistics and thumbnails of one step.

    Args:
        layers: A list of `LayerRecords`.
        step: An integer.
        scalars: Numbers by name, such as the loss; what is not finite becomes null.
        wall_time: Seconds since 1970; None is now.
    """
    examples = max((len(layer.statistics) for layer in layers), default=0)
    heads = max((layer.statistics.shape[1] for layer in layers), default=0)
    shape = len(layers), examples, heads, len(STATISTICS)
    statistics = np.full(shape, np.nan, np.float32)
    arrays = {"statistics": statistics}
    for index, layer in enumerate(layers):
        of_layer = layer.statistics
        statistics[index, : len(of_layer), : of_layer.shape[1]] = of_layer
        arrays[f"thumbnail/{index}"] = layer.thumbnails
        if layer.ranges is not None:
            arrays[f"range/{index}"] = layer.ranges
    attributes = {
        "step": int(step),
        "wall_time": float(time.time() if wall_time is None else wall_time),
        "scalars": {
            str(name): float(value) if np.isfinite(value) else None
            for name, value in (scalars or {}).items()
        },
    }
    return records.pack(attributes, arrays)


def encode_map(records_of_layer, layer, example, step):
    """Returns the blob of the map of one example.

    Args:
        records_of_layer: The `LayerRecords`.
        layer: The index of the layer.
        example: The index of the example.
        step: An integer.
    """
    attributes, arrays = records_of_layer.maps[example]
    index = {"layer": layer, "example": example, "step": int(step)}
    return records.pack({**index, **attributes}, arrays)


def encode_meta(layers, extents, options=PLAIN, **described):
    """Returns the blob that describes a run.

    Args:
        layers: A list of `Layer`.
        extents: The `Extent` of each.
        options: `Options`.
        **described: `library`, `examples` (names), `label_lists`, `labels` (for each
            layer and example the indices of the lists of queries and of keys, or None),
            `pictures`, `shown` (for each layer and example the index of the picture, or
            None), and `scalars` (names).
    """
    examples = described.get("examples", ())
    meta = {
        "v": records.VERSION,
        "library": described.get("library", "keras_sam"),
        "layers": [
            _describe(layer, extent, options)
            for layer, extent in zip(layers, extents, strict=True)
        ],
        "examples": [{"name": str(name)} for name in examples],
        "label_lists": described.get("label_lists", []),
        "views": [],
        "pictures": described.get("pictures", []),
        "statistics": list(STATISTICS),
        "scalars": list(described.get("scalars", [])),
    }
    labels, shown = described.get("labels"), described.get("shown")
    for i, (layer, extent) in enumerate(zip(layers, extents, strict=True)):
        views = []
        for j in range(layer.examples):
            query, key = labels[i][j] if labels else (None, None)
            views.append(
                {
                    "query": query,
                    "key": key,
                    "query_length": extent.query_lengths[j],
                    "key_length": extent.key_lengths[j],
                    "picture": shown[i][j] if shown else None,
                }
            )
        meta["views"].append(views)
    return records.pack_json(meta)


def _describe(layer, extent, options):
    grids = (layer.query_grid, layer.key_grid)
    query_grid, key_grid = (None if g is None else [int(n) for n in g] for g in grids)
    code = "uint16"
    if layer.is_pairs:
        code = maps.code_of(layer.heads, layer.shape, options.fine)
    return {
        "path": layer.path,
        "kind": layer.kind,
        "heads": layer.heads,
        "shape": list(layer.shape),
        "query_grid": query_grid,
        "key_grid": key_grid,
        "features": bool(layer.are_features),
        "code": code,
        "causal": extent.causal,
    }
