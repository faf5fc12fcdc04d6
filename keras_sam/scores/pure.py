"""Scores as pure functions of their weights, by which equal layers share kernels.

Kernels compute scores again when they differentiate, and live as long as the process. So a
function refers to its score weakly, and is equal to that of any equal score.
"""

import collections
import dataclasses
import weakref

import keras
from keras import ops
from keras.src.backend.common.variables import AutocastScope

from keras_sam.backend.precision import matmul


class DotProduct:
    """The dot product as a pure function; all of them are equal."""

    is_dot_product = True

    def __call__(self, weights, query, key):
        return matmul(query, ops.swapaxes(key, -1, -2))

    def __eq__(self, other):
        return type(other) is DotProduct

    def __hash__(self):
        return hash(DotProduct)

    def without_weights(self):
        """Returns itself: it refers to no layer."""
        return self


# Scores that are alive, by what makes two of them equal.
_ALIVE = collections.defaultdict(weakref.WeakSet)


class _Pure:
    """A method of a score with its weights as an argument; see `Score.as_function`."""

    def __init__(self, score):
        config = keras.saving.serialize_keras_object(score)
        config["config"] = {**config["config"], "name": None}
        config["build_config"] = None
        shapes = [(v.shape, v.trainable) for v in score.variables]
        # What `build` may have kept: the numbers of heads and of channels.
        built = (score.get_build_config() or {}).get("shapes_dict") or {}
        shapes += [(*shape[1:-2], shape[-1]) for shape in built.values() if shape]
        self._identity = (type(score), repr((config, shapes)))
        self._score = score
        _ALIVE[self._identity].add(score)

    @property
    def score(self):
        """The score, or one that is equal and alive."""
        return next(iter(_ALIVE[self._identity])) if self._score is None else self._score

    def without_weights(self):
        """Returns an equal function that does not keep the score, and so its layer, alive.

        A compiled kernel lives as long as the process. When it is traced, some equal
        score is being called, and so is alive.
        """
        other = object.__new__(type(self))
        other._identity, other._score = self._identity, None
        return other

    def __eq__(self, other):
        return type(other) is type(self) and other._identity == self._identity

    def __hash__(self):
        return hash((type(self), self._identity))


class PureCompare(_Pure):
    """A score's `compare` with its weights as an argument."""

    is_dot_product = False

    def __call__(self, weights, query, key):
        split, count = len(self.score.trainable_variables), len(self.score.variables)
        return self.score.stateless_call(
            weights[:split], weights[split:count], query, key, projected=True
        )[0]


class PureModify(_Pure):
    """A step's `modify` with its weights as an argument."""

    def __call__(self, weights, scores, pairs):
        replaced = list(zip(self.score.variables, weights, strict=True))
        # The weights are as wide as the scores, whatever dtype the layer computes in.
        with AutocastScope(None), keras.StatelessScope(replaced):
            return ops.cast(self.score.modify(scores, pairs), scores.dtype)


@dataclasses.dataclass(frozen=True)
class Modification:
    """What steps do to scores one after the other; see `Score.as_modification`.

    Args:
        steps: A tuple of `PureModify`.
        skip: The number of weights that belong to the comparison.
    """

    steps: tuple
    skip: int

    def __call__(self, weights, scores, pairs):
        first = self.skip
        for step in self.steps:
            end = first + len(step.score.variables)
            scores = step(weights[first:end], scores, pairs)
            first = end
        return scores

    def without_weights(self):
        """Returns an equal function that keeps no layer alive."""
        steps = tuple(step.without_weights() for step in self.steps)
        return dataclasses.replace(self, steps=steps)
