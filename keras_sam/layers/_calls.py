"""How layers are called, and what they say to calls that they do not know."""

import inspect


def check_tensors(layer, args, kwargs):
    """Refuses ragged tensors, and a list of tensors.

    Args:
        layer: The layer.
        args: Its arguments without names.
        kwargs: Its arguments with names.
    """
    if args and isinstance(args[0], list | tuple):
        first = next(iter(_parameters(layer)))
        raise ValueError(
            f"`{first}` must be a tensor, in {_called(layer)}. "
            f"Received: {first}=a {type(args[0]).__name__} of {len(args[0])}"
        )
    for index, tensor in enumerate((*args, *kwargs.values())):
        if _is_ragged(tensor):
            name = (*list(_parameters(layer))[: len(args)], *kwargs)[index]
            raise _ragged(layer, name, tensor)


def wrong_call(layer, args, kwargs):
    """Returns a message if arguments are missing or unknown, or else None."""
    try:
        inspect.signature(layer.call).bind(*args, **kwargs)
    except TypeError as error:
        message = str(error)
        return f"{message[:1].upper()}{message[1:]}, in {_called(layer)}"
    return None


def missing(layer, name, call):
    """Returns the error that a call lacks an argument.

    Args:
        layer: The layer.
        name: The argument, which has a default for calls of another kind.
        call: The arguments of a call that is right.
    """
    called = f"{named(layer)}, which is called as `layer({call})`"
    return TypeError(f"Missing a required argument: {name!r}, in {called}")


def three_shapes(layer, query, value, key):
    """Returns the shapes of query, value and key, also from one list of them."""
    if value is None:
        if len(query) not in (2, 3) or not hasattr(query[0], "__len__"):
            raise ValueError(
                f"`value_shape` must be given, in {named(layer)}. "
                f"Received: query_shape={query!r}"
            )
        query, value, key = (*query, None)[:3]
    return query, value, value if key is None else key


def _is_ragged(tensor):
    return type(tensor).__name__ == "RaggedTensor" or getattr(tensor, "ragged", False)


def _ragged(layer, name, tensor):
    mask = next((m for m in (f"{name}_mask", "mask") if m in _parameters(layer)), None)
    how = f"`{name}.to_tensor()` fills it up"
    if mask not in (None, name) and len(tensor.shape) > 2:
        how += (
            f", and `{mask}=tf.sequence_mask({name}.row_lengths())` tells what is padding"
        )
    return ValueError(
        f"`{name}` must not be ragged, in {named(layer)}. {how}. "
        f"Received: {name}.shape={tuple(tensor.shape)}"
    )


def _parameters(layer):
    return inspect.signature(layer.call).parameters


def named(layer):
    """Returns the class and the name of a layer, for messages."""
    return f"{type(layer).__name__} {layer.name!r}"


def _called(layer):
    """The name of a layer, and a call with the arguments that have no default."""
    needed = [n for n, p in _parameters(layer).items() if p.default is p.empty]
    return f"{named(layer)}, which is called as `layer({', '.join(needed)})`"
