"""A run: its name, its steps and its blobs by key."""

import dataclasses

import numpy as np

from keras_sam_viewer import codes, records

PLUGIN = "keras_sam"
META_TAG = f"{PLUGIN}/meta"
STATS_TAG = f"{PLUGIN}/stats"


def map_tag(layer):
    """Returns the tag of the maps of a layer, by its index."""
    return f"{PLUGIN}/maps/{layer}"


@dataclasses.dataclass
class Run:
    """The blobs of one run.

    Args:
        name: The name, as shown.
        blobs: Bytes by key: `meta`, `stats/<step>`, `map/<step>/<layer>/<example>`.
    """

    name: str
    blobs: dict

    @property
    def steps(self):
        """The steps that have statistics, ascending."""
        return sorted(
            int(key.removeprefix("stats/"))
            for key in self.blobs
            if key.startswith("stats/")
        )

    @property
    def size(self):
        """The number of bytes of all blobs."""
        return sum(map(len, self.blobs.values()))

    def thinned(self, count):
        """Returns the run with at most `count` steps: evenly spaced, with both ends."""
        steps = self.steps
        chosen = np.linspace(0, len(steps) - 1, min(count, len(steps)))
        kept = {str(steps[int(i)]) for i in np.rint(chosen)}
        blobs = {
            key: blob
            for key, blob in self.blobs.items()
            if key == "meta" or key.split("/")[1] in kept
        }
        return Run(self.name, blobs)

    def coarser(self, levels):
        """Returns the run with maps of at most so many levels, which are smaller."""
        return Run(
            self.name,
            {
                key: _coarser(blob, levels) if key.startswith("map/") else blob
                for key, blob in self.blobs.items()
            },
        )


def _coarser(blob, levels):
    """Returns the blob of a map of roots with fewer levels; others, and damaged ones, as
    they are."""
    try:
        attributes, arrays = records.unpack(blob)
    except records.RecordError:
        return blob
    given = attributes.get("levels")
    if attributes.get("code") != "sqrt8" or "codes" not in arrays:
        return blob
    if given != codes.LEVELS or levels >= given:
        return blob
    scaled = np.rint(arrays["codes"] * np.float32(levels / given)).astype(np.uint8)
    return records.pack({**attributes, "levels": levels}, {**arrays, "codes": scaled})
