"""Argument checks with one message style.

Every message names the argument, says what was expected and shows what came::

    `num_heads` must be a positive integer. Received: num_heads=0
"""

import numbers


def invalid(name, expected, value):
    """Returns the `ValueError` that all checks raise, in the one style."""
    return ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def is_integer(value):
    """Says whether `value` is an integer (NumPy's too), and not a boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def positive_integer(name, value, optional=False):
    """Returns `value` as an `int`, or raises."""
    if optional and value is None:
        return None
    if not is_integer(value) or value < 1:
        expected = "a positive integer" + (" or None" if optional else "")
        raise invalid(name, expected, value)
    return int(value)


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
    fine = all(is_integer(size) and (size > 0 or not positive) for size in values)
    if not fine or not 1 <= len(values) <= 3:
        kind = "a positive integer" if positive else "an integer"
        raise invalid(name, f"{kind}, a tuple of one to three, or None", value)
    values = tuple(int(size) for size in values)
    return values if isinstance(value, list | tuple) else values[0]


def block_size(name, value):
    """Returns how many rows are computed at a time, or raises."""
    if value == "auto" or value is None:
        return value
    if not is_integer(value) or value < 1:
        raise invalid(name, 'a positive integer, "auto" or None', value)
    return int(value)


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
