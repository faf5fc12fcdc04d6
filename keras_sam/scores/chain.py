"""A score and steps before and after it."""

import keras

from keras_sam import _validation as check
from keras_sam.scores.base import Score


@keras.saving.register_keras_serializable(package="keras_sam")
class Chain(Score):
    """One score, and steps that change queries and keys before it or scores after it.

    ::

        query, key = encode(query, key, positions)     of all steps, in their order
        scores = compare(project(query, key))          of the score
        scores = modify(scores, pairs)                 of all steps, in their order

    Layers make one of a list: `score=[Rotary(), "scaled_dot", SoftCap(50.0)]`.

    Args:
        steps: A list of names and instances, of which one is a score. No step that comes
            with this package may be there twice, nor may two that add a bias by position.

    Call arguments:
        query: Tensor `(B, H, T, D)`.
        key: Tensor `(B, H, S, D)`.
        projected: Whether both have been through `encode` and `project` already.

    Output shape:
        `(B, H, T, S)`: the scores before `modify`, which needs positions.

    Example:

    >>> import keras, keras_sam
    >>> from keras_sam import scores
    >>> layer = keras_sam.SelfAttention(
    ...     2, causal=True, score=[scores.Rotary(), "scaled_dot", scores.SoftCap(50.0)]
    ... )
    >>> layer(keras.ops.ones((1, 5, 16))).shape
    TensorShape([1, 5, 16])

    Reference:
        Vaswani et al., 2017, "Attention Is All You Need"
        (https://arxiv.org/abs/1706.03762), eq. 1, is what the steps are put around.
    """

    def __init__(self, steps: list | tuple, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(steps, list | tuple) or not steps:
            raise check.invalid("score", "a list of scores and steps", steps)
        self.steps = list(steps)
        for step in self.steps:
            if not isinstance(step, Score) or isinstance(step, Chain):
                expected = "a list of names and instances of keras_sam.scores.Score"
                raise check.invalid("score", expected, steps)
        compared = [step for step in self.steps if not step.is_step]
        if len(compared) != 1:
            found = ", ".join(type(step).__name__ for step in self.steps)
            raise ValueError(
                "`score` must have exactly one score beside its steps, such as "
                f'"scaled_dot". Received: score=[{found}], with {len(compared)}'
            )
        roles = [step.role for step in self.steps if step.role is not None]
        for role in roles:
            if roles.count(role) > 1:
                found = ", ".join(type(step).__name__ for step in self.steps)
                raise ValueError(
                    f"`score` must have one step for {role} at most. "
                    f"Received: score=[{found}]"
                )

    @property
    def compared(self):
        """The one score among the steps."""
        return next(step for step in self.steps if not step.is_step)

    @property
    def is_dot_product(self):
        return self.compared.is_dot_product

    @property
    def encodes(self):
        return any(step.encodes for step in self.steps)

    @property
    def has_sinks(self):
        return any(step.has_sinks for step in self.steps)

    @property
    def value_activation(self):
        found = (step.value_activation for step in self.steps)
        return next((each for each in found if each is not None), None)

    def build(self, query_shape, key_shape):
        for step in self.steps:
            if not step.built:  # one that was loaded is built already
                step.build(query_shape, key_shape)

    def encode(self, query, key, query_positions, key_positions):
        for step in self.steps:
            query, key = step.encode(query, key, query_positions, key_positions)
        return query, key

    def project(self, query, key):
        return self.compared.project(query, key)

    def fixed_scale(self, width):
        return self.compared.fixed_scale(width)

    def compare(self, query, key):
        return self.compared.compare(query, key)

    def modify(self, scores, pairs):
        for step in self.modifiers():
            scores = step.modify(scores, pairs)
        return scores

    def modifiers(self):
        return [found for step in self.steps for found in step.modifiers()]

    def sinks(self):
        return next((step.sinks() for step in self.steps if step.has_sinks), None)

    def as_function(self):
        return self.compared.as_function()

    def get_config(self):
        steps = [keras.saving.serialize_keras_object(step) for step in self.steps]
        return {**super().get_config(), "steps": steps}

    @classmethod
    def from_config(cls, config):
        steps = [
            keras.saving.deserialize_keras_object({**step, "build_config": None})
            for step in config["steps"]
        ]
        return super().from_config({**config, "steps": steps})
