"""Weight that goes to no position."""

import keras

from keras_sam.scores.base import Score


@keras.saving.register_keras_serializable(package="keras_sam")
class Sinks(Score):
    """Step: gives each head one more score, which takes weight and has no value.

    ::

        w_ij = exp(s_ij) / (exp(sink_h) + sum_j exp(s_ij))

    so that a row may attend to nothing. With other normalizers whose weights share a sum
    the sink is one more score as well; those of sigmoid do not.

    Call arguments:
        As of every `keras_sam.scores.Score`; it works in a list with one.

    Example:

    >>> import keras, keras_sam
    >>> score = ["scaled_dot", keras_sam.scores.Sinks()]
    >>> layer = keras_sam.SelfAttention(2, score=score)
    >>> layer(keras.ops.ones((1, 5, 8))).shape
    TensorShape([1, 5, 8])

    References:
        OpenAI, 2025, "gpt-oss-120b & gpt-oss-20b Model Card"
        (https://arxiv.org/abs/2508.10925), section 2.2; Xiao et al., 2024, "Efficient
        Streaming Language Models with Attention Sinks"
        (https://arxiv.org/abs/2309.17453), section 3.3.
    """

    role = "sinks"

    def build(self, query_shape, key_shape):
        self.sink_scores = self.add_weight(
            name="sinks", shape=(query_shape[1],), initializer="zeros"
        )

    def sinks(self):
        return self.sink_scores
