"""Scores: how well does each query fit each key?

A score is a small layer of two steps. `project` runs once a call and may transform
queries and keys; `compare` runs for every slab of query rows and makes the scores,
`(..., T, d)` against `(..., S, d)` to `(..., T, S)`. By default `project` changes
nothing and `compare` is the dot product, which is what all scores here but `Additive`
and `TanhSum` end in. The law: row `i` of the scores depends on row `i` of the query only.

Weights are learned for each head, by which a score means: for each combination of the
axes between the batch and the rows.
"""

from keras_sam import _strategies
from keras_sam.scores.additive import Additive
from keras_sam.scores.base import Score
from keras_sam.scores.bilinear import Bilinear, LowRankBilinear
from keras_sam.scores.dot import Cosine, Dot, ScaledDot
from keras_sam.scores.tanh_sum import TanhSum

_strategies_by_name = _strategies.Strategies(
    "score",
    Score,
    {
        "dot": Dot,
        "scaled_dot": ScaledDot,
        "cosine": Cosine,
        "additive": Additive,
        "bilinear": Bilinear,
        "low_rank_bilinear": LowRankBilinear,
    },
)
get = _strategies_by_name.get
serialize = _strategies_by_name.serialize
deserialize = _strategies_by_name.deserialize

__all__ = [
    "Additive",
    "Bilinear",
    "Cosine",
    "Dot",
    "LowRankBilinear",
    "ScaledDot",
    "Score",
    "TanhSum",
    "deserialize",
    "get",
    "serialize",
]
