"""How rotary positions are stretched, for sequences longer than those of training.

All take the frequencies of the pairs of channels, radians a position, in float64.
"""

import dataclasses
import math

import keras
import numpy as np

from keras_sam import _validation as check

register = keras.saving.register_keras_serializable(package="keras_sam")


class Scaling:
    """What all have in common: a configuration made of the fields of a dataclass."""

    # Queries and keys are multiplied by it.
    magnitude = 1.0

    def frequencies(self, plain, max_wavelength, width):
        """Returns other frequencies.

        Args:
            plain: The frequencies, a float64 array `(width / 2,)`.
            max_wavelength: The number whose powers they are.
            width: The number of channels that rotate.
        """
        raise NotImplementedError

    def beyond(self, plain):
        """Returns the frequencies of sequences longer than `length`, or None."""
        return None

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def _check_positive(self, *names):
        for name in names:
            value = getattr(self, name)
            if check.number(name, value, "a positive number") <= 0:
                raise check.invalid(name, "a positive number", value)


@register
@dataclasses.dataclass(frozen=True)
class Linear(Scaling):
    """Divides all frequencies: positions become as many times denser.

    Args:
        factor: A positive number.

    Reference: [Chen et al. 2023](https://arxiv.org/abs/2306.15595), equation 4.
    """

    factor: float

    def __post_init__(self):
        self._check_positive("factor")

    def frequencies(self, plain, max_wavelength, width):
        return plain / self.factor


@register
@dataclasses.dataclass(frozen=True)
class Llama3(Scaling):
    """Divides low frequencies, keeps high ones, and goes smoothly from these to those.

    Args:
        factor: What low frequencies are divided by.
        low: Frequencies that turn less often than this within the length of training are
            low.
        high: Frequencies that turn more often are high.
        length: The length of training.

    Reference: [Llama Team 2024](https://arxiv.org/abs/2407.21783), section 3.4.2, and
    the code of the model.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    length: int = 8192

    def __post_init__(self):
        self._check_positive("factor", "low", "high", "length")
        if self.high <= self.low:
            expected = f"a number above `low` ({self.low})"
            raise check.invalid("high", expected, self.high)

    def frequencies(self, plain, max_wavelength, width):
        turns = self.length * plain / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return plain * (kept + (1 - kept) / self.factor)


@register
@dataclasses.dataclass(frozen=True)
class YaRN(Scaling):
    """Divides low frequencies, keeps high ones, and makes scores larger.

    Args:
        factor: What low frequencies are divided by.
        fast: Channels whose frequency turns more often than this within the length of
            training are kept.
        slow: Channels whose frequency turns less often are divided.
        length: The length of training.
        truncate: Whether the first and last channel in between are whole numbers.
        attention: What queries and keys are multiplied by; None is
            `0.1 log(factor) + 1`.

    Reference: [Peng et al. 2023](https://arxiv.org/abs/2309.00071), section 3.
    """

    factor: float
    fast: float = 32.0
    slow: float = 1.0
    length: int = 4096
    truncate: bool = True
    attention: float | None = None

    def __post_init__(self):
        self._check_positive("factor", "fast", "slow", "length")
        check.boolean("truncate", self.truncate)
        if self.attention is not None:
            self._check_positive("attention")

    @property
    def magnitude(self):
        if self.attention is not None:
            return self.attention
        return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0

    def frequencies(self, plain, max_wavelength, width):
        def channel(turns):
            """The channel whose frequency turns so often, from 0 to `width / 2`."""
            at = math.log(self.length / (turns * 2 * math.pi))
            return width * at / (2 * math.log(max_wavelength))

        first, last = channel(self.fast), channel(self.slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        last = last + 0.001 if first == last else last
        divided = np.clip((np.arange(width // 2) - first) / (last - first), 0, 1)
        return plain * (1 - divided) + plain / self.factor * divided


@register
@dataclasses.dataclass(frozen=True)
class Proportional(Scaling):
    """Keeps the highest frequencies only: the other pairs of channels do not turn.

    Unlike a `fraction` of `Rotary`, it takes as many channels of each half, and their
    frequencies are those of all channels.

    Args:
        fraction: The share of the frequencies that are kept, the highest ones.
        factor: What these are divided by.

    Reference: Gemma Team 2026, the code of Gemma 4.
    """

    fraction: float
    factor: float = 1.0

    def __post_init__(self):
        self._check_positive("fraction", "factor")

    def frequencies(self, plain, max_wavelength, width):
        kept = np.arange(len(plain)) < round(self.fraction * len(plain))
        return np.where(kept, plain / self.factor, 0.0)


@register
@dataclasses.dataclass(frozen=True)
class LongRoPE(Scaling):
    """Divides each frequency by a factor of its own, with other factors for long sequences.

    The last position of a call decides whether its sequences are long.

    Args:
        short: The factors up to `length`, one for each pair of channels.
        long: The factors beyond it.
        length: The length of training.
        attention: What queries and keys are multiplied by.

    Reference: [Ding et al. 2024](https://arxiv.org/abs/2402.13753), section 3.2.
    """

    short: tuple
    long: tuple
    length: int
    attention: float = 1.0

    def __post_init__(self):
        self._check_positive("length", "attention")
        for name in ("short", "long"):
            factors = getattr(self, name)
            if not isinstance(factors, list | tuple) or not len(factors):
                raise check.invalid(name, "a list of numbers", factors)
            numbers = tuple(float(check.number(name, each)) for each in factors)
            if min(numbers) <= 0:
                raise check.invalid(name, "a list of positive numbers", factors)
            object.__setattr__(self, name, numbers)

    @property
    def magnitude(self):
        return self.attention

    def frequencies(self, plain, max_wavelength, width):
        return self._divide("short", plain)

    def beyond(self, plain):
        return self._divide("long", plain)

    def _divide(self, name, plain):
        factors = getattr(self, name)
        if len(factors) != len(plain):
            expected = f"{len(plain)} numbers, one for each pair of channels"
            raise check.invalid(name, expected, factors)
        return plain / np.array(factors)
