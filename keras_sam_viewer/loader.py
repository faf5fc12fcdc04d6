"""The entry point of TensorBoard's plugin.

TensorBoard imports this module unguarded: an error here would stop it. So nothing is
imported but the base class, and the plugin itself only when it is loaded.
"""

import logging

from tensorboard.plugins import base_plugin

# TensorBoard keeps ten steps of a tag unless it is told otherwise.
STEPS = 200


class Loader(base_plugin.TBLoader):
    """Loads the plugin, or says in one line why it cannot be had."""

    def fix_flags(self, flags):
        samples = getattr(flags, "samples_per_plugin", None)
        if isinstance(samples, dict):
            samples.setdefault("keras_sam", STEPS)

    def load(self, context):
        try:
            from keras_sam_viewer.plugin import AttentionPlugin

            return AttentionPlugin(context)
        except Exception as error:
            logging.getLogger("tensorboard").warning(
                "The attention plugin of keras_sam is left out. %s: %s",
                type(error).__name__,
                error,
            )
            return None
