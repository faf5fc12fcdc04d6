"""The layers that have to keep the contract. A new layer adds its rows here."""

import dataclasses

import keras
import numpy as np
from common import random, randomize

from keras_sam import masks, normalizers, scores
from keras_sam.layers import (
    CBAM,
    ChannelAttention,
    CrossAttention,
    PointwiseSpatialAttention,
    SelectiveAttention,
    SelfAttention,
    SpatialAttention,
    SpatialGate,
    UnprojectedAttention,
)

# The batch, in eager calls. Other sizes are other primes.
BATCH = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to make and to call a layer.

    Args:
        layer: The class.
        arguments: Its arguments; those of all cases of a layer should name every one.
        shapes: For each input its shape, without the batch.
        open_shapes: The same, with None wherever a length may stay unknown.
        masks: For each argument that takes a padding mask, the index of the input that
            it is the mask of.
        wrong_shapes: Lists of shapes that the layer must refuse.
        returns_weights: Whether the layer knows `return_attention_scores`.
    """

    layer: type
    arguments: dict
    shapes: tuple
    open_shapes: tuple
    masks: dict = dataclasses.field(default_factory=dict)
    wrong_shapes: tuple = ()
    returns_weights: bool = True

    def make(self, **arguments):
        return self.layer(**{**self.arguments, **arguments})

    def inputs(self, batch=BATCH, seed=0, unknown=None):
        """Arrays for a call; `unknown` is the size of what `open_shapes` leaves open."""
        shapes = self.shapes
        if unknown is not None:
            shapes = [[n or unknown for n in shape] for shape in self.open_shapes]
        return [
            random(batch, *shape, seed=seed + index) for index, shape in enumerate(shapes)
        ]

    def symbols(self, unknown=False):
        shapes = self.open_shapes if unknown else self.shapes
        return [keras.Input(tuple(shape)) for shape in shapes]

    def model(self, unknown=False, **arguments):
        symbols = self.symbols(unknown)
        return keras.Model(symbols, self.make(**arguments)(*symbols))

    def padding(self, inputs, seed=7):
        """Masks for all arguments that take one, with something left in each row."""
        generator = np.random.default_rng(seed)
        masks = {}
        for name, index in self.masks.items():
            mask = generator.random(inputs[index].shape[:-1]) < 0.6
            mask.reshape(len(mask), -1)[:, 0] = True
            masks[name] = mask
        return masks


SEQUENCE = {"shapes": ((5, 6),), "open_shapes": ((None, 6),), "masks": {"mask": 0}}
WRONG = (((6,),), ((2, 2, 2, 2, 6),), ((5, None),))
CROSS = {
    "shapes": ((5, 6), (7, 4)),
    "open_shapes": ((None, 6), (None, 4)),
    "masks": {"query_mask": 0, "value_mask": 1},
    "wrong_shapes": (
        ((6,), (7, 4)),
        ((5, 6), (2, 2, 2, 2, 4)),
        ((5, 6), (7, None)),
    ),
}
KEYED = {
    "shapes": ((5, 6), (7, 4), (7, 3)),
    "open_shapes": ((None, 6), (None, 4), (None, 3)),
    "masks": {"query_mask": 0, "value_mask": 1, "key_mask": 2},
    "wrong_shapes": (((5, 6), (7, 4), (5, 3)), ((5, 6), (7, 4), (7, 3, 3))),
}

KERAS = {
    "bias_initializer": keras.initializers.RandomNormal(seed=3),
    "bias_regularizer": keras.regularizers.L2(0.01),
    "activity_regularizer": keras.regularizers.L2(0.01),
    "kernel_constraint": keras.constraints.MaxNorm(2.0),
    "bias_constraint": keras.constraints.MaxNorm(3.0),
}
IMAGE = {
    "shapes": ((3, 5, 6),),
    "open_shapes": ((None, None, 6),),
    "masks": {"mask": 0},
}
GATE = {
    "data_format": "channels_last",
    "kernel_initializer": keras.initializers.HeNormal(seed=3),
    "kernel_regularizer": keras.regularizers.L2(0.01),
}

CASES = {
    "self": Case(SelfAttention, {"num_heads": 2}, wrong_shapes=WRONG, **SEQUENCE),
    "self, every argument": Case(
        SelfAttention,
        {
            "num_heads": 4,
            "key_dim": 3,
            "value_dim": 5,
            "num_key_value_heads": 2,
            "score": scores.Additive(units=7),
            "normalizer": normalizers.Entmax(alpha=1.3),
            "causal": True,
            "sliding_window": 3,
            "mask": masks.Window(2) | masks.Global(1),
            "selective": True,
            "memory_loss": 0.1,
            "dropout": 0.2,
            "use_bias": False,
            "kernel_initializer": keras.initializers.HeNormal(seed=3),
            "kernel_regularizer": keras.regularizers.L2(0.01),
            "block_size": None,
            "seed": 5,
            "output_shape": (3, 2),
            "attention_axes": (1,),
            "use_gate": True,
            **KERAS,
        },
        **SEQUENCE,
    ),
    "self, cosine": Case(
        SelfAttention,
        {"num_heads": 3, "score": "cosine", "normalizer": "sigmoid", "block_size": 2},
        **SEQUENCE,
    ),
    "self, selective": Case(
        SelfAttention, {"num_heads": 2, "causal": True, "selective": True}, **SEQUENCE
    ),
    "self, image": Case(
        SelfAttention,
        {"num_heads": 2, "score": "bilinear", "normalizer": "sparsemax"},
        shapes=((3, 2, 6),),
        open_shapes=((None, None, 6),),
        masks={"mask": 0},
    ),
    "self, volume": Case(
        SelfAttention,
        {"num_heads": 1, "key_dim": 4},
        shapes=((2, 3, 2, 6),),
        open_shapes=((None, 3, None, 6),),
        masks={"mask": 0},
    ),
    "self, free axis": Case(
        SelfAttention,
        {"num_heads": 2, "attention_axes": -2, "causal": True},
        wrong_shapes=(((6,),), ((2, 2, 2, 2, 6),)),
        **IMAGE,
    ),
    "cross": Case(CrossAttention, {"num_heads": 2, "dropout": 0.2}, **CROSS),
    "cross, key": Case(
        CrossAttention,
        {
            "num_heads": 2,
            "key_dim": 5,
            "value_dim": 3,
            "num_key_value_heads": 1,
            "score": "low_rank_bilinear",
            "normalizer": "entmax",
            "causal": True,
        },
        **KEYED,
    ),
    "cross, image and sequence": Case(
        CrossAttention,
        {"num_heads": 2, "output_shape": 7, "use_gate": True, **KERAS},
        shapes=((3, 2, 6), (7, 4)),
        open_shapes=((None, None, 6), (None, 4)),
        masks={"query_mask": 0, "value_mask": 1},
    ),
    "cross, free axis": Case(
        CrossAttention,
        {"num_heads": 2, "attention_axes": 1, "score": "additive"},
        shapes=((3, 2, 6), (5, 2, 4)),
        open_shapes=((None, None, 6), (None, None, 4)),
        masks={"query_mask": 0, "value_mask": 1},
        wrong_shapes=(((3, 2, 6), (5, 3, 4)), ((3, 2, 6), (2, 4))),
    ),
    "unprojected": Case(
        UnprojectedAttention,
        {},
        shapes=((5, 6), (7, 6)),
        open_shapes=((None, 6), (None, 6)),
        masks={"query_mask": 0, "value_mask": 1},
        wrong_shapes=(((6,), (7, 6)), ((5, 6), (7, 4)), ((5, 6), (7, 7, 6))),
    ),
    "unprojected, every argument": Case(
        UnprojectedAttention,
        {
            "score": scores.TanhSum(initializer="ones"),
            "normalizer": normalizers.Entmax(alpha=1.3),
            "causal": True,
            "sliding_window": 3,
            "mask": masks.Window(2) | masks.Global(1),
            "dropout": 0.2,
            "block_size": 3,
            "seed": 5,
        },
        shapes=((5, 6), (7, 4), (7, 6)),
        open_shapes=((None, 6), (None, 4), (None, 6)),
        masks={"query_mask": 0, "value_mask": 1, "key_mask": 2},
        wrong_shapes=(((5, 6), (7, 4), (5, 6)), ((5, 6), (7, 4), (7, 4))),
    ),
    "unprojected, grid": Case(
        UnprojectedAttention,
        {"score": scores.ScaledDot(learn_scale=True)},
        shapes=((3, 5, 6), (3, 7, 6)),
        open_shapes=((None, None, 6), (None, None, 6)),
        masks={"query_mask": 0, "value_mask": 1},
        wrong_shapes=(((3, 5, 6), (2, 7, 6)),),
    ),
    "selective": Case(SelectiveAttention, {"units": 5, "num_heads": 2}, **SEQUENCE),
    "selective, every argument": Case(
        SelectiveAttention,
        {
            "units": 3,
            "num_heads": 2,
            "relation": "self",
            "score": scores.Additive(units=7),
            "normalizer": normalizers.Sigmoid(),
            "top_k": 0.5,
            "pool": False,
            "axis": 1,
            "dropout": 0.2,
            "use_bias": False,
            "kernel_initializer": keras.initializers.HeNormal(seed=3),
            "seed": 5,
        },
        **SEQUENCE,
    ),
    "selective, query": Case(
        SelectiveAttention,
        {"relation": "query", "score": "bilinear", "normalizer": "sparsemax"},
        shapes=((5, 6), (4,)),
        open_shapes=((None, 6), (4,)),
        masks={"mask": 0},
        wrong_shapes=(((5, 6), (7, 4)), ((6,), (4,))),
    ),
    "spatial": Case(SpatialAttention, {}, wrong_shapes=(((6,),), ((5, None),)), **IMAGE),
    "spatial, every argument": Case(
        SpatialAttention,
        {
            "kernel_size": 3,
            "pooling": ("mean", "max"),
            "normalizer": normalizers.Softmax(temperature=0.5),
            "dilation_rate": 2,
            "use_bias": True,
            "use_batch_norm": True,
            **GATE,
        },
        **IMAGE,
    ),
    "pointwise spatial": Case(PointwiseSpatialAttention, {}, **IMAGE),
    "pointwise spatial, every argument": Case(
        PointwiseSpatialAttention,
        {
            "kernel_size": 3,
            "dilation_rate": 2,
            "use_bias": False,
            "use_batch_norm": True,
            **GATE,
        },
        **IMAGE,
    ),
    "channel": Case(ChannelAttention, {"reduction": 2}, **IMAGE),
    "channel, every argument": Case(
        ChannelAttention,
        {
            "reduction": 3,
            "pooling": ("mean",),
            "normalizer": normalizers.Softmax(),
            "activation": "tanh",
            "use_bias": False,
            "hidden_units": 4,
            **GATE,
        },
        **IMAGE,
    ),
    "cbam": Case(CBAM, {"reduction": 2}, **IMAGE),
    "cbam, every argument": Case(
        CBAM,
        {
            "reduction": 3,
            "kernel_size": 3,
            "pooling": ("mean",),
            "order": "parallel",
            "use_batch_norm": True,
            "normalizer": normalizers.HardSigmoid(),
            "hidden_units": 7,
            "activation": "tanh",
            "use_bias": False,
            **GATE,
        },
        **IMAGE,
    ),
    "gate": Case(
        SpatialGate,
        {"activation": "relu", "broadcast": True},
        shapes=((3, 2, 6), (3, 2, 1)),
        open_shapes=((None, None, 6), (None, None, 1)),
        masks={"features_mask": 0},
        wrong_shapes=(((3, 2, 6), (3, 2, 5)), ((3, 2, 6), (2, 2, 1))),
        returns_weights=False,
    ),
}


def everything(unknown=False, names=tuple(CASES), **arguments):
    """One model of many cases: compiling and saving it once is much cheaper.

    Args:
        unknown: Whether lengths are unknown.
        names: Of the cases.
        **arguments: For every layer that knows them, instead of the case's own.

    Returns:
        The model, with random weights and one output for each case, and a function that
        makes arrays for a batch size.
    """
    symbols, outputs = [], {}
    for name in names:
        case = CASES[name]
        known = case.make().get_config()
        chosen = {key: value for key, value in arguments.items() if key in known}
        inputs = case.symbols(unknown)
        symbols += inputs
        layer = case.make(**chosen, name=name.replace(", ", "_").replace(" ", "_"))
        outputs[layer.name] = layer(*inputs)
    model = randomize(keras.Model(symbols, outputs))

    def arrays(batch):
        size = 7 if unknown else None
        return [x for name in names for x in CASES[name].inputs(batch, unknown=size)]

    return model, arrays
