"""`.names` and `.data` files. No Keras here."""

import os

from keras_sam.darknet.errors import DarknetError

_MAX_BYTES = 2**22


def read_names(path: str | os.PathLike) -> list[str]:
    """Reads the names of the classes.

    Args:
        path: A `.names` file, one name in a line; or a `.data` file, whose option
            `names` (or else `labels`) is the path of one: as it stands, from the
            working directory, or beside the `.data` file or the directory that holds
            it.

    Returns:
        The list of names. Empty lines at the end do not count.

    Raises:
        DarknetError: If there is no such file, or it holds no name.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_sam import darknet
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = pathlib.Path(directory, "pets.names")
    ...     size = path.write_text("cat\\ndog\\n")
    ...     darknet.read_names(path)
    ['cat', 'dog']
    """
    path = os.fsdecode(path)
    text = _read(path)
    if path.lower().endswith(".data"):
        path = _names_path(path, text)
        text = _read(path)
    names = [line.strip() for line in text.split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DarknetError("holds no names.", path)
    return names


def _names_path(path, text):
    """Returns the path that a `.data` file gives as `names`, or else as `labels`."""
    given = {}
    for number, line in enumerate(text.split("\n"), start=1):
        key, equals, value = "".join(line.split()).partition("=")
        if equals and key in ("names", "labels"):
            given.setdefault(key, (value, number))
    if not given:
        raise DarknetError("has no option `names`.", path)
    value, number = given.get("names") or given["labels"]
    folder = os.path.dirname(path)
    for root in ("", folder, os.path.join(folder, os.pardir)):
        for name in (value, value.replace("\\", "/")):
            candidate = os.path.join(root, name)
            if os.path.isfile(candidate):
                return candidate
    raise DarknetError(f"names a file that is not there: {value}", path, number)


def _read(path):
    if not os.path.isfile(path):
        raise DarknetError("there is no such file of names.", path)
    with open(path, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES or b"\0" in data:
        raise DarknetError("is no file of names.", path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
