"""The calls of TensorFlow Addons' attention that keras_sam is compared with.

Shared by what makes the stored outputs with the real package (`make_addons_data.py`) and
by what computes the same with keras_sam. Knows no Keras.
"""

import dataclasses
import itertools

import ml_dtypes
import numpy as np

BATCH, ROWS, KEYS, WIDTHS, HEAD_SIZE = 2, 3, 5, (7, 11, 13), 6
LOW_PRECISION = "float16", "mixed_float16", "bfloat16", "mixed_bfloat16"


def tolerance(policy, expected, layers=1):
    """How far two computations of the same may be apart, by rounding alone.

    Attention is four products in a row, and both round: as in `oracles.allowance`, by the
    dtype's rounding of the largest number. Processors differ so much from one another.
    """
    dtype = policy.removeprefix("mixed_")
    return 8 * layers * float(ml_dtypes.finfo(dtype).eps) * np.abs(expected).max()


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer and one call of it, with weights and inputs drawn from a seed."""

    seed: int
    num_heads: int
    output_size: int | None = None
    use_projection_bias: bool = True
    return_attn_coef: bool = True
    dropout: float = 0.0
    with_value: bool = True
    mask_kind: str = "none"
    policy: str = "float32"

    def config(self):
        return {
            "head_size": HEAD_SIZE,
            "num_heads": self.num_heads,
            "output_size": self.output_size,
            "use_projection_bias": self.use_projection_bias,
            "return_attn_coef": self.return_attn_coef,
            "dropout": self.dropout,
        }

    def inputs(self):
        draw = np.random.default_rng(self.seed).standard_normal
        lengths = (ROWS, KEYS, KEYS)[: 2 + self.with_value]
        return [
            draw((BATCH, length, width)).astype("float32")
            for length, width in zip(lengths, WIDTHS, strict=False)
        ]

    def value_width(self):
        return WIDTHS[2] if self.with_value else WIDTHS[1]

    def output_count(self):
        """How many numbers the call returns."""
        numbers = BATCH * ROWS * (self.output_size or self.value_width())
        if self.return_attn_coef:
            numbers += BATCH * self.num_heads * ROWS * KEYS
        return numbers

    def weights(self):
        draw = np.random.default_rng(self.seed + 1000).standard_normal
        value_width = self.value_width()
        output = self.output_size or value_width
        shapes = [(self.num_heads, width, HEAD_SIZE) for width in WIDTHS[:2]]
        shapes.append((self.num_heads, value_width, HEAD_SIZE))
        shapes.append((self.num_heads, HEAD_SIZE, output))
        if self.use_projection_bias:
            shapes.append((output,))
        return [(0.4 * draw(shape)).astype("float32") for shape in shapes]

    def mask(self):
        shape = {
            "none": None,
            "pairs": (ROWS, KEYS),
            "batch": (BATCH, ROWS, KEYS),
            "heads": (BATCH, self.num_heads, ROWS, KEYS),
            "empty rows": (BATCH, ROWS, KEYS),
        }[self.mask_kind]
        if shape is None:
            return None
        mask = np.random.default_rng(self.seed + 2000).random(shape) < 0.6
        mask[..., 0] = True
        if self.mask_kind == "empty rows":
            mask[:, 1] = False
        return mask.astype("float32")


def _cases():
    table = itertools.product(
        (1, 4),  # heads
        ("none", "pairs", "batch", "heads", "empty rows"),
        (None, 8),  # output size
        (True, False),  # projection bias
        (True, False),  # weights returned too
        (True, False),  # a value besides the key
    )
    for seed, (heads, mask, size, bias, coef, value) in enumerate(table):
        dropout = 0.3 if seed % 2 else 0.0  # which says nothing outside of training
        yield Case(seed, heads, size, bias, coef, dropout, value, mask)
    # TensorFlow Addons fails on masks in any other dtype than float32.
    for policy, heads, value in itertools.product(
        ("float64", *LOW_PRECISION), (1, 4), (True, False)
    ):
        seed += 1
        yield Case(seed, heads, with_value=value, policy=policy)


CASES = list(_cases())


def added_mask():
    """Scores of any size, a mask, and the weights: the mask is added, in float32.

    Both times -1e10, beside which scores below 512 vanish and larger ones do not.
    """
    scores = [[300, -200, 0], [1e5, 0, -1e5], [1e5, 0, -1e5], [7, 7, 1e8]]
    mask = [[0, 0, 0], [0, 0, 0], [0.5, 0.25, 0.75], [1, 1, 0]]
    weights = [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0, 0, 1], [0.5, 0.5, 0]]
    return (np.array(each, "float32") for each in (scores, mask, weights))


def weights_of_scores(layer, scores, mask):
    """Returns the weights that a layer of one head of width 4 makes of given scores."""
    query = np.pad(scores, [(0, 0), (0, 1)])[None]
    key = 2 * np.eye(3, 4, dtype="float32")[None]  # 2 is the root of the width
    layer.build([query.shape, key.shape])
    layer.set_weights([np.eye(4, dtype="float32")[None]] * 4)
    return layer([query, key], mask=mask)[1][0, 0]
