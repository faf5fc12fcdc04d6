"""Finding a map in the pixels of a picture."""

import numpy as np


def contains(pixels, colors, cell):
    """Returns whether cells of these colors are anywhere in a picture."""
    rows, columns = colors.shape[:2]
    at = cell * np.arange(rows)[:, None], cell * np.arange(columns)
    height, width = pixels.shape[0] - cell * rows, pixels.shape[1] - cell * columns
    for top, left in np.argwhere((pixels == colors[0, 0]).all(-1)):
        inside = top < height and left < width
        if inside and (pixels[top + at[0], left + at[1]] == colors).all():
            return True
    return False
