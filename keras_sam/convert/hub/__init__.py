"""KerasHub's attention layers and models become ours.

::

    table.py     which classes are taken, and why others are not
    text.py      what each class of language models computes: a `Recipe`
    pictures.py  and each of models of pictures
    parts.py     what the classes have in common, under names that differ
    positions.py rotary positions of a few models
    recipe.py    a recipe becomes a layer, with its weights
    adapter.py   the layer is called as KerasHub calls its own
    places.py    where attention is inside of other layers
    models.py    layers, backbones and tasks, which are saved and loaded
"""

from keras_sam.convert.hub.conversion import convert, has_attention, is_hub, replacement

__all__ = ["convert", "has_attention", "is_hub", "replacement"]
