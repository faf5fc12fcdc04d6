"""What all checked layers have in common. No Keras here.

`shape` is (height, width, channels) of the output; `sources` are the layers that a
layer reads, the previous one first, where -1 is the network's input.
"""

import dataclasses
import math

from keras_sam.darknet.cfg import Section

NORMALIZATION = ("scales", "mean", "variance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What all layers have.

    `not_loaded` names the arrays that a weight file leaves out (`dontload`).
    """

    section: Section
    sources: tuple[int, ...]
    shape: tuple[int | None, int | None, int]
    not_loaded: tuple[str, ...] = ()

    @property
    def index(self):
        """The number that Darknet gives the layer: 0 is the first after `[net]`."""
        return self.section.index

    @property
    def name(self):
        """The name of the Keras layer, such as `012_sam`."""
        return f"{self.index:03d}_{self.section.name}"

    @property
    def blocks(self):
        """Name and shape of the layer's arrays, in the order of the weight file."""
        return {}

    @property
    def loaded_blocks(self):
        """The blocks that a weight file holds when it is read."""
        return {
            name: shape
            for name, shape in self.blocks.items()
            if name not in self.not_loaded
        }

    @property
    def weight_count(self):
        """The number of the layer's weights."""
        return sum(math.prod(shape) for shape in self.blocks.values())
