"""The one implementation of `get`, `serialize` and `deserialize`.

A *strategy* is a small registered object that a layer is given as an argument: a
score, a normalizer or a mask. It may be named by a string, given as an instance, or come
back from a configuration as a dictionary.
"""

import contextlib
import inspect

import keras
from keras.src.backend.common import global_state

_DEEPEST = 64  # dictionaries and lists within each other
# Where Keras keeps the objects that several layers of a file share.
_SHARED = "shared_objects/id_to_obj_map", "shared_objects/id_to_config_map"


@contextlib.contextmanager
def outside_sharing():
    """Disables Keras's object sharing, so that each copy stays a separate object.

    While Keras loads a model, it merges objects with the same `id`. Python reuses the `id`
    of a freed object, so Keras could merge two different copies.
    """
    held = {name: global_state.get_global_attribute(name) for name in _SHARED}
    try:
        for name in _SHARED:
            global_state.set_global_attribute(name, None)
        yield
    finally:
        for name, value in held.items():
            global_state.set_global_attribute(name, value)


def refuse_deep(name, config):
    """Refuses configurations that are nested more deeply than Python can follow."""
    level = [config]
    for _ in range(_DEEPEST):
        level = [
            value
            for each in level
            for value in (each.values() if isinstance(each, dict) else each)
            if isinstance(value, dict | list | tuple)
        ]
        if not level:
            return
    raise ValueError(
        f"`{name}` must be nested at most {_DEEPEST} levels deep. Received: {name} with a "
        "configuration that is nested more deeply"
    )


class Strategies:
    """The known strategies of one kind, by name.

    Args:
        argument: The word for the kind in error messages, such as `"score"`.
        base: The class that all strategies of the kind inherit from, or None
            when anything callable that is registered with Keras will do.
        known: A dictionary of name to class.
        called: Whether a strategy is one to call.
        parts: A function from a strategy to its operands, which are strategies, too.
        optional: Whether None stands for no strategy.
    """

    def __init__(self, argument, base, known, called=True, parts=None, optional=False):
        self.argument = argument
        self.base = base
        self.known = known
        self.called = called
        self.parts = parts or (lambda strategy: ())
        self.optional = optional

    def get(self, identifier, **kwargs):
        """Returns the strategy that `identifier` stands for.

        Args:
            identifier: A known name, an instance, or a serialized instance.
            **kwargs: Passed on to the constructor when `identifier` is a name.
        """
        if identifier is None and self.optional:
            return None
        if isinstance(identifier, str):
            return self._by_name(identifier)(**kwargs)
        if isinstance(identifier, dict):
            return self.deserialize(identifier)
        self._refuse_unsavable(identifier)
        return identifier

    def serialize(self, strategy):
        """Returns `strategy` as a dictionary.

        It is never a bare name: Keras's legacy `.h5` loader turns the strings
        `"dot"`, `"add"` and `"multiply"` into functions, wherever they stand.
        """
        return keras.saving.serialize_keras_object(strategy)

    def deserialize(self, config):
        """Returns the strategy that `serialize` made `config` from."""
        refuse_deep(self.argument, config)
        strategy = keras.saving.deserialize_keras_object(config)
        self._refuse_unsavable(strategy)
        return strategy

    def _by_name(self, name):
        try:
            return self.known[name]
        except KeyError:
            listed = ", ".join(f'"{known}"' for known in self.known)
            raise ValueError(
                f"Unknown {self.argument}. Expected one of {listed}, or an instance. "
                f"Received: {self.argument}={name!r}"
            ) from None

    def _refuse_unsavable(self, strategy):
        """Refuses what could be trained with, but never loaded again."""
        cls = type(strategy)
        if self.base is not None and not isinstance(strategy, self.base):
            raise ValueError(
                f"`{self.argument}` must be a name or an instance of "
                f"keras_sam.{self.argument}s.{self.base.__qualname__}. "
                f"Received: {self.argument}={strategy!r} (of type {cls.__name__})"
            )
        self._refuse_unregistered(strategy)
        self._refuse_what_loses_arguments(strategy)
        self._refuse_what_cannot_be_compared(strategy)
        if self.base is None and isinstance(strategy, keras.layers.Layer):
            self._refuse_weights(strategy)
        for part in self.parts(strategy):
            self._refuse_unsavable(part)

    def _refuse_unregistered(self, strategy):
        cls = type(strategy)
        registered = keras.saving.get_registered_object(
            keras.saving.get_registered_name(cls)
        )
        loads = registered is cls and hasattr(cls, "from_config")
        if not loads or (self.called and not callable(strategy)):
            has = "can be called and has" if self.called else "has"
            raise ValueError(
                f"`{self.argument}` must be an instance of a class registered with "
                f"`keras.saving.register_keras_serializable` that {has} "
                "`from_config`, because a model that holds anything else (a lambda, "
                "a function) saves but does not load. "
                f"Received: {self.argument}={strategy!r} (of type {cls.__name__})"
            )

    def _refuse_what_loses_arguments(self, strategy):
        """Refuses what would come back from its configuration with other arguments."""
        try:
            config = strategy.get_config()
        except (AttributeError, NotImplementedError) as error:
            raise self._lost(strategy, "a `get_config` of its own") from error
        parameters = inspect.signature(type(strategy).__init__).parameters.values()
        names = [
            x.name for x in parameters if x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)
        ]
        missing = [name for name in names[1:] if name not in config]
        if missing:
            listed = ", ".join(f"`{name}`" for name in missing)
            raise self._lost(strategy, f"{listed} in its configuration (`get_config`)")

    def _lost(self, strategy, what):
        return ValueError(
            f"`{self.argument}` must have {what}, because it is made again from its "
            "configuration. "
            f"Received: {self.argument}={strategy!r} (of type {type(strategy).__name__})"
        )

    def _refuse_what_cannot_be_compared(self, strategy):
        """Refuses what has no hash, by which equal layers share compiled functions."""
        try:
            hash(strategy)
        except TypeError as error:
            raise ValueError(
                f"`{self.argument}` must have a hash, as a dataclass has that is made with "
                "`@dataclasses.dataclass(frozen=True)` and holds no lists. "
                f"Received: {self.argument}={strategy!r} "
                f"(of type {type(strategy).__name__})"
            ) from error

    def _refuse_weights(self, layer):
        """Refuses a layer with weights where a function is wanted."""
        copy = layer
        if not layer.built:
            copy = type(layer).from_config(layer.get_config())
            copy(keras.KerasTensor((1, 1, 3, 5)))
        if copy.variables:
            raise ValueError(
                f"`{self.argument}` must have no weights, because it is a function here. "
                f"Received: {self.argument}={layer!r}"
            )
