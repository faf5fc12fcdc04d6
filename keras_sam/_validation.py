"""Argument checks with one message style.

Every message names the argument, says what was expected and shows what came::

    `num_heads` must be a positive integer. Received: num_heads=0
"""

import math
import numbers

# The largest sizes that a layer takes. A configuration may come from a stranger: what is
# larger is refused before any memory is taken for it.
LARGEST_SIZE = 2**20  # heads, units, channels, ranks
LARGEST_WEIGHT = 2**28  # numbers in one weight, a gigabyte in float32
LARGEST_INT32 = 2**31 - 1  # lengths: positions are int32


def invalid(name, expected, value):
    """Returns the `ValueError` that all checks raise, in the one style."""
    return ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def is_integer(value):
    """Says whether `value` is an integer (NumPy's too), and not a boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def positive_integer(name, value, optional=False, most=LARGEST_SIZE):
    """Returns `value` as an `int`, or raises."""
    if optional and value is None:
        return None
    expected = "a positive integer" + (" or None" if optional else "")
    if not is_integer(value) or value < 1:
        raise invalid(name, expected, value)
    if value > most:
        raise invalid(name, f"{expected}, at most {most}", value)
    return int(value)


def weight_shape(names, shape):
    """Raises if a weight of this shape is too large; `names` are its arguments."""
    if math.prod(shape) > LARGEST_WEIGHT:
        raise ValueError(
            f"{names} must not make a weight of more than {LARGEST_WEIGHT} numbers. "
            f"Received: a weight of shape {tuple(shape)}"
        )


def window(name, value):
    """Returns how many keys a row sees, as an `int` or None, or raises."""
    return positive_integer(name, value, optional=True, most=LARGEST_INT32)


def integer(name, value, optional=False):
    """Returns `value` as an `int`, or raises."""
    if optional and value is None:
        return None
    if not is_integer(value):
        expected = "an integer" + (" or None" if optional else "")
        raise invalid(name, expected, value)
    return int(value)


def integers(name, value, positive=False):
    """Returns an integer, a tuple of one to three or None, or raises."""
    if value is None:
        return None
    values = value if isinstance(value, list | tuple) else (value,)
    least = 1 if positive else -LARGEST_SIZE
    fine = all(is_integer(size) and least <= size <= LARGEST_SIZE for size in values)
    if not fine or not 1 <= len(values) <= 3:
        kind = "a positive integer" if positive else "an integer"
        expected = f"{kind}, a tuple of one to three, or None (at most {LARGEST_SIZE})"
        raise invalid(name, expected, value)
    values = tuple(int(size) for size in values)
    return values if isinstance(value, list | tuple) else values[0]


def block_size(name, value):
    """Returns how many rows are computed at a time, or raises."""
    if value == "auto" or value is None:
        return value
    if not is_integer(value) or value < 1:
        raise invalid(name, 'a positive integer, "auto" or None', value)
    return min(int(value), LARGEST_INT32)


def number(name, value, expected="a number"):
    """Returns `value` as a finite `float`, or raises."""
    if (
        not isinstance(value, numbers.Real)
        or isinstance(value, bool)
        or not float("-inf") < value < float("inf")
    ):
        raise invalid(name, expected, value)
    return float(value)


def rate(name, value):
    """Returns a dropout rate in [0, 1) as a `float`, or raises."""
    expected = "a number in the range [0, 1)"
    value = number(name, value, expected)
    if not 0 <= value < 1:
        raise invalid(name, expected, value)
    return value


def boolean(name, value):
    """Returns `value` if it is True or False, or raises."""
    if not isinstance(value, bool):
        raise invalid(name, "True or False", value)
    return value


def flag(name, value):
    """Returns `value` as a `bool` if it is True, False, 1 or 0, or raises."""
    if not isinstance(value, bool | numbers.Integral) or value not in (0, 1):
        raise invalid(name, "True or False", value)
    return bool(value)


def initializer(name, value):
    """Returns the Keras initializer that `value` stands for, or raises.

    A function would do as well, until the model that holds it is loaded again.
    """
    import keras  # here, for commands that do without

    expected = "the name or an instance of a Keras initializer"
    return _of_keras(name, keras.initializers, "Initializer", expected, value)


def regularizer(name, value):
    """Returns the Keras regularizer that `value` stands for, or None, or raises."""
    if value is None:
        return None
    import keras  # here, for commands that do without

    expected = "the name or an instance of a Keras regularizer, or None"
    return _of_keras(name, keras.regularizers, "Regularizer", expected, value)


def constraint(name, value):
    """Returns the Keras constraint that `value` stands for, or None, or raises."""
    if value is None:
        return None
    import keras  # here, for commands that do without

    expected = "the name or an instance of a Keras constraint, or None"
    return _of_keras(name, keras.constraints, "Constraint", expected, value)


def _of_keras(name, module, base, expected, value):
    """Returns what `module.get` finds, as far as it is an instance of `base`."""
    try:
        found = module.get(value)
    except (ValueError, TypeError) as error:
        raise invalid(name, expected, value) from error
    if not isinstance(found, getattr(module, base)):
        raise invalid(name, expected, value)
    return found


def one_of(name, value, choices):
    """Returns `value` if it is one of `choices`, or raises and lists them."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise invalid(name, f"one of {listed}", value)
    return value


def fits(shape, expected, broadcast=False):
    """Whether a shape fits another one, as far as both are known."""
    return len(shape) == len(expected) and all(
        None in (size, want) or size == want or (broadcast and size == 1)
        for size, want in zip(shape, expected, strict=True)
    )
