"""Masks: which pairs of a query position and a key position count.

Masks are small frozen values. `&`, `|` and `~` join them, `mask.as_array(T)` is all their
pairs, and `str(mask)` draws them:

>>> from keras_sam.masks import Causal, Global, Window, deserialize, serialize
>>> mask = Causal() & (Window(3) | Global(1))
>>> mask
And(left=Causal(align='start'), right=Or(left=Window(size=3), right=Global(count=1)))
>>> print(mask)
1 . . . . . . .
1 1 . . . . . .
1 1 1 . . . . .
1 1 1 1 . . . .
1 . 1 1 1 . . .
1 . . 1 1 1 . .
1 . . . 1 1 1 .
1 . . . . 1 1 1
>>> deserialize(serialize(mask)) == mask
True

No kernel makes a mask of all pairs: each asks for the pairs of a few rows and keys at a
time, and which tiles of them are empty or whole.
"""

from keras_sam import _strategies
from keras_sam.masks.base import And, Mask, Not, Or
from keras_sam.masks.pairs import Bounds, Pairs
from keras_sam.masks.patterns import Causal, Dilated, Global, Prefix, Window
from keras_sam.masks.segments import Segments

_strategies_by_name = _strategies.Strategies(
    argument="mask",
    base=Mask,
    known={"causal": Causal, "segments": Segments},
    called=False,
    parts=lambda mask: mask.parts(),
    optional=True,
)
get = _strategies_by_name.get
"""Returns the mask that a name, an instance or a serialized instance stands for."""
serialize = _strategies_by_name.serialize
"""Returns a mask as a dictionary, as saved models keep it."""
deserialize = _strategies_by_name.deserialize
"""Returns the mask that a dictionary of `serialize` describes."""

__all__ = [
    "And",
    "Bounds",
    "Causal",
    "Dilated",
    "Global",
    "Mask",
    "Not",
    "Or",
    "Pairs",
    "Prefix",
    "Segments",
    "Window",
    "deserialize",
    "get",
    "serialize",
]
