"""What TensorFlow Addons had and keras_sam does not bring over, with what to do instead.

The list is complete and stays so: TensorFlow Addons 0.23 was the last version. Each name
is registered with Keras, so that a model that needs it gets a message which says what to
do, in place of Keras's advice to register a class that no longer exists. What you have
registered under such a name yourself stays.
"""

import keras

_COMPILED = (
    "It is only needed to go on training: load the model with `compile=False`, and then "
    "compile it with {}."
)
_OWN = (
    "Write it for Keras 3, and load the model inside "
    '`with keras.saving.custom_object_scope({{"Addons>{name}": Yours}})`.'
)
_LAYER = "keras_sam brings over attention and activations only. " + _OWN
_RANDOM = "It is random in training, which an activation of Keras 3 cannot know of. " + _OWN
_MONOTONIC = "It depends on the step before, as no score of keras_sam does. " + _OWN
_SIMILAR = "`keras.layers.{name}` has other arguments or weights. " + _OWN

# What to do, with the names that it holds for.
ADVICE = {
    _COMPILED.format("an optimizer of `keras.optimizers`"): """
        AdaBelief COCOB ConditionalGradient CyclicalLearningRate
        ExponentialCyclicalLearningRate LazyAdam Lookahead MovingAverage MultiOptimizer
        NovoGrad ProximalAdagrad RectifiedAdam SGDW SWA Triangular2CyclicalLearningRate
        TriangularCyclicalLearningRate Yogi""",
    _COMPILED.format("`keras.optimizers.AdamW`"): "AdamW",
    _COMPILED.format("`keras.optimizers.Lamb`"): "LAMB",
    _COMPILED.format("a loss of `keras.losses` or your own"): """
        ContrastiveLoss GIoULoss LiftedStructLoss NpairsLoss NpairsMultilabelLoss
        PinballLoss SparsemaxLoss TripletHardLoss TripletSemiHardLoss WeightedKappaLoss
        contrastive_loss giou_loss lifted_struct_loss npairs_loss npairs_multilabel_loss
        pinball_loss sparsemax_loss sparsemax_loss_from_logits triplet_hard_loss
        triplet_semihard_loss""",
    _COMPILED.format("`keras.losses.BinaryFocalCrossentropy`"): """
        SigmoidFocalCrossEntropy sigmoid_focal_crossentropy""",
    _COMPILED.format("a metric of `keras.metrics` or your own"): """
        CohenKappa GeometricMean HarmonicMean KendallsTauB KendallsTauC
        MatthewsCorrelationCoefficient PearsonsCorrelation SpearmansRank""",
    _COMPILED.format("`keras.metrics.F1Score`"): "F1Score",
    _COMPILED.format("`keras.metrics.FBetaScore`"): "FBetaScore",
    _COMPILED.format("`keras.metrics.R2Score`"): "RSquare",
    _LAYER: """
        AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
        AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D CRF CRFModelWrapper
        CorrelationCost ESN ESNCell EmbeddingBag FilterResponseNormalization
        InstanceNormalization LayerNormLSTMCell LayerNormSimpleRNNCell MaxUnpooling2D
        MaxUnpooling2DV2 Maxout NASCell NoisyDense PeepholeLSTMCell PoincareNormalize
        PolynomialCrossing Snake SpatialPyramidPooling2D StochasticDepth TLU
        WeightNormalization""",
    _SIMILAR: "GroupNormalization SpectralNormalization",
    _RANDOM: "rrelu",
    _MONOTONIC: "BahdanauMonotonicAttention LuongMonotonicAttention",
}


def _message(name, advice, config=()):
    layer = f", in {config['name']!r}" if "name" in config else ""
    return (
        f"TensorFlow Addons' `{name}` is not brought over by keras_sam{layer}. "
        f"{advice.format(name=name)}"
    )


def _stand_in_class(name, advice):
    class Unmapped:
        @classmethod
        def from_config(cls, config):
            raise ValueError(_message(name, advice, config))

        def get_config(self):  # without it, Keras registers no class
            return {}

    return Unmapped


def _stand_in_function(name, advice):
    def unmapped(*args, **kwargs):
        raise ValueError(_message(name, advice))

    return unmapped


for _advice, _names in ADVICE.items():
    for _name in _names.split():
        if keras.saving.get_registered_object(f"Addons>{_name}") is None:
            _stand_in = _stand_in_function if _name.islower() else _stand_in_class
            keras.saving.register_keras_serializable(package="Addons", name=_name)(
                _stand_in(_name, _advice)
            )
