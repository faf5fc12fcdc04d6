"""Whether this process is a command that must not wait for Keras."""

import sys


def runs(module):
    """Returns whether Python is about to run `python -m module`.

    `python -m keras_sam.darknet` imports `keras_sam` first, to find the module in it.
    While it does, `sys.argv[0]` is `"-m"`.
    """
    if sys.argv[:1] != ["-m"]:
        return False
    return not {module, f"-m{module}"}.isdisjoint(sys.orig_argv)
