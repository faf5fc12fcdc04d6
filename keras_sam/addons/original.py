"""The real TensorFlow Addons, for those who still have to run it."""

import importlib
import importlib.util
import os
import sys

INSTEAD = (
    "Models that were saved with TensorFlow Addons do not need it: `import "
    "keras_sam.addons`, and load them."
)
PREPARE = """
    import os, sys
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before TensorFlow is imported
    import tf_keras.src.engine
    sys.modules["keras.src.engine"] = tf_keras.src.engine
"""


def import_tfa():
    """Returns the real `tensorflow_addons`, or says what keeps it from being imported.

    It runs on TensorFlow's Keras 2 (`tf_keras`), which is chosen for the whole process
    before TensorFlow is imported. That is yours to choose, so nothing is set here: the
    message has the lines that do.

    Raises:
        ImportError: If TensorFlow Addons cannot be installed on this Python, is not
            installed, or the process is not prepared for it.
    """
    if "tensorflow_addons" in sys.modules:
        return sys.modules["tensorflow_addons"]
    if sys.version_info >= (3, 12):
        raise ImportError(
            "tensorflow-addons cannot be installed on Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}: its last version, 0.23, "
            f"is for Python 3.11 at most. {INSTEAD} To run the real one, make an "
            'environment of Python 3.11 and `pip install "keras-sam[addons]"` there.'
        )
    for module in ("tensorflow_addons", "tf_keras"):
        if importlib.util.find_spec(module) is None:
            raise ImportError(
                f"`{module}` is not installed. {INSTEAD} To run the real one, `pip install "
                '"keras-sam[addons]"`.'
            )
    switched = os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")
    if not switched or "keras.src.engine" not in sys.modules:
        raise ImportError(
            "tensorflow-addons needs Keras 2, which this process has not chosen. "
            f"{INSTEAD} To run the real one, begin the program with:\n{PREPARE}"
        )
    try:
        return importlib.import_module("tensorflow_addons")
    except (ImportError, AttributeError) as error:
        raise ImportError(
            "tensorflow-addons 0.23 does not import beside this version of TensorFlow. "
            f"{INSTEAD} To run the real one, use TensorFlow and tf-keras 2.21. {error}"
        ) from error
