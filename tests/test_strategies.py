"""Scores and normalizers as arguments: named, given, saved, refused."""

import dataclasses

import h5py
import keras
import numpy as np
import pytest
from common import NORMALIZERS, SCORES, label, numpy, random, refused
from keras import ops

from keras_sam import SelfAttention, normalizers, scores
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


class Unregistered:
    def __call__(self, scores):
        return scores


class UnregisteredScore(scores.Score):
    pass


@keras.saving.register_keras_serializable(package="test_strategies")
class CannotBeCalled:
    def get_config(self):
        return {}


REFUSED = {
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
    if kind == "normalizer" and name == "any layer":
        pytest.skip("a registered layer loads, and may serve as a normalizer")
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


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_h5_file_holds_the_weights_of_scores(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), SelfAttention(2, score="additive")])
    model.save(tmp_path / "model.h5")
    names = []
    with h5py.File(tmp_path / "model.h5") as file:
        file["model_weights"].visit(names.append)
    for weight in ("query_kernel", "key_kernel", "bias", "vector"):
        assert any(name.endswith(f"/{weight}") for name in names), names
