"""Statistics of attention as scalars: of layers, and of heads as runs of their own.

TensorBoard draws a card for each tag, and in it a line for each run. So a head is a run,
and there are as many cards as layers have statistics, however many heads there are.
"""

import warnings

import numpy as np

from keras_sam.callbacks import _summaries

# The name in TensorBoard, the one of the viewer's statistics, and what it says. The order
# is that of the Custom Scalars dashboard.
STATISTICS = {
    "keys_used": (
        "keys_used",
        "How many keys the queries use together: exp of the entropy of the weight that "
        "each key receives. 1: all queries look at one key, the head has collapsed.",
    ),
    "entropy": (
        "entropy",
        "Mean entropy of the rows, divided by the logarithm of the number of keys that "
        "are not masked: 0 looks at one key, 1 at all alike.",
    ),
    "similarity": (
        "twin_difference",
        "The share of the weight that a head puts where the most similar head of its "
        "layer puts it. 1: both do the same.",
    ),
    "top_key_share": (
        "top_key_share",
        "The share of their weight that queries give to the key that receives most, of "
        "the queries that may see it. 1: all look at this key.",
    ),
    "max": ("largest", "Mean over the rows of their largest weight."),
    "first": ("first", "Mean weight of the first key."),
    "previous": ("previous", "Mean weight of the key before the query."),
    "self": ("self", "Mean weight that a position gives to itself."),
    "distance": (
        "distance",
        "Mean distance, in positions, between a query and what it attends to (Euclidean "
        "between the positions of a picture).",
    ),
    "mean": ("mean", "Mean of the gates."),
    "above_half": ("above_half", "Share of the gates above one half."),
    "low": ("low", "The smallest gate, mean over the examples."),
    "high": ("high", "The largest gate, mean over the examples."),
}
_NOTE = (
    " Rows with one allowed key are left out. The run `attention` is the mean of the "
    "layer, `attention/head_<n>` a head."
)
_OF_GATES = ("mean", "above_half", "low", "high")


def of_layer(survey, is_gate):
    """Returns the statistics of one layer: `{name: (of the layer, of the heads)}`.

    Statistics that do not apply are left out. Those of weights that are no finite
    numbers are NaN.
    """
    found = {}
    for name, (source, _) in STATISTICS.items():
        values = np.asarray(survey.statistics[source], np.float64)  # (B, H)
        if name == "similarity":
            values = 1 - values
        if np.isnan(values).all():
            of_kind = name in _OF_GATES if is_gate else name in ("entropy", "keys_used")
            if survey.is_finite or not of_kind:
                continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a head of no rows
            found[name] = float(np.nanmean(values)), np.nanmean(values, axis=0).tolist()
    return found


def tag_of(prefix, name, tag):
    """Returns the tag of a statistic of a layer."""
    return f"{prefix}_attention_{name}/{tag}"


def summaries(prefix, tag, found):
    """Returns the scalars of one layer, by run: `""` for the layer, `head_<n>`.

    Args:
        prefix: `"epoch"` or `"batch"`.
        tag: The tag of the layer.
        found: Its statistics, from `of_layer`.
    """
    runs = {}
    for name, (whole, heads) in found.items():
        about = STATISTICS[name][1] + _NOTE
        values = {"": whole}
        if len(heads) > 1:
            values |= {f"head_{head}": value for head, value in enumerate(heads)}
        for run, value in values.items():
            scalar = _summaries.scalar(tag_of(prefix, name, tag), value, about)
            runs.setdefault(run, []).append(scalar)
    return runs


def categories(prefix, layers):
    """Returns what the layout shows: a category for each statistic, a chart for a layer.

    Args:
        prefix: `"epoch"` or `"batch"`.
        layers: The statistics of each layer, from `of_layer`, by tag.
    """
    found = {}
    for name in STATISTICS:
        charts = {
            tag: tag_of(prefix, name, tag) for tag, each in layers.items() if name in each
        }
        if charts:
            words = name.replace("_", " ")
            found[f"{prefix} attention: {words}"] = charts
    return found
