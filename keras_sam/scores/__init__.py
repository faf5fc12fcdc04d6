"""Scores: how well does each query fit each key?

A score is a small layer. `project` runs once in a call and may transform queries and
keys. `compare` runs for each block of query rows, and makes scores `(..., T, S)` of
queries `(..., T, d)` and keys `(..., S, d)`. By default `project` changes nothing, and
`compare` is the dot product. All scores here but `Additive` and `TanhSum` end in a dot
product. Row `i` of the scores must depend on row `i` of the query only.

A list combines a score with steps: `[QKNorm(), Rotary(), "scaled_dot", SoftCap(50.0)]`.
They change queries and keys by their positions, or they change scores; see `Chain`.

Weights are learned for each head. For a score, a head is each combination of the axes
between the batch and the rows.
"""

from keras_sam import _strategies
from keras_sam.scores.additive import Additive
from keras_sam.scores.base import Score
from keras_sam.scores.bilinear import Bilinear, LowRankBilinear
from keras_sam.scores.chain import Chain
from keras_sam.scores.dot import Cosine, Dot, ScaledDot
from keras_sam.scores.steps.alibi import ALiBi
from keras_sam.scores.steps.grid_bias import GridBias
from keras_sam.scores.steps.qk_norm import QKNorm
from keras_sam.scores.steps.relative_bias import RelativeBias, T5Bias
from keras_sam.scores.steps.rotary import Rotary
from keras_sam.scores.steps.scaling import Linear, Llama3, LongRoPE, Proportional, YaRN
from keras_sam.scores.steps.sinks import Sinks
from keras_sam.scores.steps.soft_cap import SoftCap
from keras_sam.scores.steps.value_norm import ValueNorm
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
serialize = _strategies_by_name.serialize
"""Returns a score as a dictionary, as saved models keep it."""
deserialize = _strategies_by_name.deserialize
"""Returns the score that a dictionary of `serialize` describes."""


def get(identifier, **kwargs):
    """Returns the score that `identifier` stands for.

    Args:
        identifier: A known name, an instance, a serialized instance, or a list of one
            score and steps.
        **kwargs: Passed on to the constructor of each that is a name.
    """
    if isinstance(identifier, list | tuple):
        steps = [
            _get(each, **kwargs if isinstance(each, str) else {}) for each in identifier
        ]
        return Chain(steps, **kwargs)
    score = _get(identifier, **kwargs)
    if score.is_step:
        raise ValueError(
            "`score` must be a score, or a list of one and of steps. "
            f"Received: score={score!r}, which is a step"
        )
    return score


_get = _strategies_by_name.get

__all__ = [
    "ALiBi",
    "Additive",
    "Bilinear",
    "Chain",
    "Cosine",
    "Dot",
    "GridBias",
    "Linear",
    "Llama3",
    "LongRoPE",
    "LowRankBilinear",
    "Proportional",
    "QKNorm",
    "RelativeBias",
    "Rotary",
    "ScaledDot",
    "Score",
    "Sinks",
    "SoftCap",
    "T5Bias",
    "TanhSum",
    "ValueNorm",
    "YaRN",
    "deserialize",
    "get",
    "serialize",
]
