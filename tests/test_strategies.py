"""Scores and normalizers as arguments: named, given, saved, refused."""

import dataclasses

import h5py
import keras
import numpy as np
import pytest
from common import NORMALIZERS, SCORES, label, numpy, random, refused
from keras import ops
from keras.src.saving.serialization_lib import ObjectSharingScope

from keras_sam import (
    CrossAttention,
    SelectiveAttention,
    SelfAttention,
    normalizers,
    scores,
)
from keras_sam.normalizers import Entmax, Normalizer, Sigmoid, Softmax, Sparsemax

KINDS = {"score": (scores, SCORES), "normalizer": (normalizers, NORMALIZERS)}
NAMED = [(kind, name) for kind, (_, names) in KINDS.items() for name in names]
kinds = pytest.mark.parametrize("kind", KINDS)


def config_of(strategy):
    config = strategy.get_config()
    return {key: value for key, value in config.items() if key != "name"}


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_names_instances_and_dictionaries(kind, name):
    module, _ = KINDS[kind]
    strategy = module.get(name)
    assert module.get(strategy) is strategy
    config = module.serialize(strategy)
    assert isinstance(config, dict)  # a bare name would become a function in .h5 files
    for again in (module.deserialize(config), module.get(config)):
        assert type(again) is type(strategy)
        assert config_of(again) == config_of(strategy)


@kinds
def test_what_is_not_known_lists_what_is(kind):
    module, names = KINDS[kind]
    listed = ", ".join(f'"{name}"' for name in names)
    with refused(f"Unknown {kind}. Expected one of {listed}, or an instance. "):
        module.get("dots")
    with refused(f"Received: {kind}='dots'"):
        SelfAttention(2, **{kind: "dots"})


def build(layer):
    layer.build((None, 5))
    return layer


class Unregistered:
    def __call__(self, scores):
        return scores


class UnregisteredScore(scores.Score):
    pass


@keras.saving.register_keras_serializable(package="test_strategies")
class CannotBeCalled:
    def get_config(self):
        return {}


@keras.saving.register_keras_serializable(package="test_strategies")
@dataclasses.dataclass
class NotFrozen(Normalizer):
    scale: float = 1.0

    def __call__(self, scores):
        return self.scale * ops.relu(scores)


@keras.saving.register_keras_serializable(package="test_strategies")
@dataclasses.dataclass(frozen=True)
class HoldsAList(Normalizer):
    scales: list

    def __call__(self, scores):
        return self.scales[0] * ops.relu(scores)


@keras.saving.register_keras_serializable(package="test_strategies")
class LosesItsScale:
    """A normalizer whose configuration lacks an argument."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, scores):
        return self.scale * ops.relu(scores)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="test_strategies")
class LosesItsInitializer(scores.Score):
    """A score whose argument Keras cannot write down by itself."""

    def __init__(self, initializer=keras.initializers.Ones(), **kwargs):  # noqa: B008
        super().__init__(**kwargs)
        self.initializer = initializer


REFUSED = {
    "a dataclass that is not frozen": NotFrozen(),
    "a dataclass with a list": HoldsAList([1.0]),
    "a normalizer that loses an argument": LosesItsScale(scale=5.0),
    "a score that loses an argument": LosesItsInitializer(),
    "a layer with weights": keras.layers.Dense(5),
    "a built layer with weights": build(keras.layers.Dense(5)),
    "a lambda": lambda x: x,
    "a function": ops.softmax,
    "a class": Softmax,
    "a class of scores": scores.Dot,
    "unregistered": Unregistered(),
    "an unregistered score": UnregisteredScore(),
    "not callable": CannotBeCalled(),
    "None": None,
    "a number": 3,
    "an empty dictionary": {},
    "any dictionary": {"a": 1},
    "any layer": keras.layers.Dense(3),
}


@pytest.mark.parametrize("name", REFUSED)
@kinds
def test_refused_when_the_layer_is_made(kind, name):
    with refused(f"Received: {kind}="):
        SelfAttention(2, **{kind: REFUSED[name]})


@keras.saving.register_keras_serializable(package="test_strategies")
@dataclasses.dataclass(frozen=True)
class Relu(Normalizer):
    scale: float = 1.0

    def __call__(self, scores):
        return self.scale * ops.relu(scores)


@keras.saving.register_keras_serializable(package="test_strategies")
class Plain:
    """A normalizer that inherits nothing."""

    def __call__(self, scores):
        return ops.sigmoid(scores)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls()


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(
    "normalizer",
    [
        Relu(scale=0.5),
        Plain(),
        Softmax(temperature=0.5),
        Sigmoid(bias="-log(length)"),
        Sparsemax(),
        Entmax(alpha=1.2),
    ],
    ids=label,
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_normalizers_are_saved_with_their_arguments(normalizer, suffix, reload):
    layer = SelfAttention(2, score="dot", normalizer=normalizer, block_size=None)
    model = keras.Sequential([keras.Input((None, 4)), layer])
    loaded = reload(model, f"model.{suffix}")
    layer = loaded.layers[0]
    assert type(layer.normalizer) is type(normalizer)
    if dataclasses.is_dataclass(normalizer):
        assert layer.normalizer == normalizer
    assert isinstance(layer.score, scores.Dot)
    x = random(2, 5, 4)
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


@keras.saving.register_keras_serializable(package="test_strategies")
class Distance(scores.Score):
    """A score with an argument, and nothing else than Keras asks of a layer."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def compare(self, query, key):
        difference = query[..., :, None, :] - key[..., None, :, :]
        return -self.scale * ops.sum(ops.square(difference), axis=-1)


@keras.saving.register_keras_serializable(package="test_strategies")
class Powers(scores.ScaledDot):
    """A score that inherits a configuration, with one more argument."""

    def __init__(self, power=1, scale=None, **kwargs):
        super().__init__(scale=scale, **kwargs)
        self.power = power

    def compare(self, query, key):
        return super().compare(query, key) ** self.power


@keras.saving.register_keras_serializable(package="test_strategies")
class Written(Distance):
    """A score that writes its own configuration."""

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


OWN_SCORES = {
    "an argument": lambda **kwargs: Distance(scale=5.0, **kwargs),
    "an argument by position": lambda **kwargs: Distance(5.0, **kwargs),
    "an inherited configuration": lambda **kwargs: Powers(3, scale=0.5, **kwargs),
    "a configuration of its own": lambda **kwargs: Written(scale=5.0, **kwargs),
}
LAYERS = {
    "self": lambda score: (SelfAttention(2, score=score), (5, 8)),
    "cross": lambda score: (CrossAttention(2, score=score), (5, 8), (7, 8)),
    "selective": lambda score: (SelectiveAttention(relation="self", score=score), (5, 8)),
}


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("dtype", [None, "float32", "policy"])
@pytest.mark.parametrize("name", OWN_SCORES)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_score_of_ones_own_keeps_its_arguments(layer, name, dtype, suffix, reload):
    dtype = keras.DTypePolicy("float32") if dtype == "policy" else dtype
    score = OWN_SCORES[name](**({} if dtype is None else {"dtype": dtype}))
    layer, *shapes = LAYERS[layer](score)
    symbols = [keras.Input(shape) for shape in shapes]
    model = keras.Model(symbols, layer(*symbols))
    loaded = reload(model, f"model.{suffix}")
    arrays = [random(2, *shape, seed=i) for i, shape in enumerate(shapes)]
    np.testing.assert_array_equal(numpy(loaded(arrays)), numpy(model(arrays)))
    for own in (layer.score, loaded.layers[-1].score):
        names = set(vars(score)) & {"scale", "power"}
        assert names
        assert all(getattr(own, name) == getattr(score, name) for name in names)


def test_scores_of_other_arguments_share_no_kernel():
    """Compiled functions are shared by what a configuration says."""
    functions = [Distance(scale=scale).as_function()[0] for scale in (1.0, 5.0, 5.0)]
    assert functions[0] != functions[1] == functions[2]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_h5_file_holds_the_weights_of_scores(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), SelfAttention(2, score="additive")])
    model.save(tmp_path / "model.h5")
    names = []
    with h5py.File(tmp_path / "model.h5") as file:
        file["model_weights"].visit(names.append)
    for weight in ("query_kernel", "key_kernel", "bias", "vector"):
        assert any(name.endswith(f"/{weight}") for name in names), names


@pytest.mark.parametrize("make", [lambda: [scores.QKNorm(), "dot"], lambda: scores.Dot()])
def test_layers_made_while_a_model_is_loaded_share_no_score(make):
    """Keras would find the parts of one copy again by their `id`."""
    score = scores.get(make())
    with ObjectSharingScope():
        first, second = (SelfAttention(2, score=score).score for _ in range(2))
    assert first is not second
    if isinstance(score, scores.Chain):
        pairs = zip(first.steps, second.steps, strict=True)
        assert all(one is not other for one, other in pairs)
