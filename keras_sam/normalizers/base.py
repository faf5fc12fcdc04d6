"""The base class of normalizers."""

import dataclasses


class Normalizer:
    """What normalizers share: a configuration made of the fields of a dataclass.

    Inheriting from it is a convenience: anything that can be called, is registered
    with Keras, and has `get_config` and `from_config` can serve as a normalizer.
    """

    # Whether the weights of a row share a sum, of which a sink can take a part.
    shares_a_sum = True

    def __call__(self, scores):
        """Returns the weights of `scores`, each row of the last axis by itself."""
        raise NotImplementedError

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def _store(self, name, value):
        """Stores a checked field; only the constructor may, the class is frozen."""
        object.__setattr__(self, name, value)
