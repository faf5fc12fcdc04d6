"""Writes one offline HTML page from event files: `python -m keras_sam_viewer --help`."""

import argparse
import pathlib
import sys

from keras_sam_viewer.html import make_page

_LARGE = 22 * 2**20  # bytes of blobs; a page is a third larger
_COARSE = 63


def main(arguments=None):
    """Runs the command, and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_sam_viewer",
        description="Writes the attention in TensorBoard's event files as one HTML page "
        "that needs no server and no network.",
    )
    parser.add_argument("logdir", help="the directory that TensorBoard reads")
    parser.add_argument("-o", "--output", default="attention.html", help="the page")
    parser.add_argument(
        "--run", action="append", metavar="NAME", help="only this run (may be repeated)"
    )
    parser.add_argument(
        "--steps", type=int, default=16, help="so many steps of a run (default: 16)"
    )
    parser.add_argument(
        "--levels",
        type=int,
        choices=(63, 255),
        help="levels of a weight (default: 63 if the page were over 30 MB)",
    )
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps must be at least 1. Received: {options.steps}")
    # Only this needs TensorBoard.
    from keras_sam_viewer.reader import read_log_dir

    try:
        runs = read_log_dir(options.logdir)
    except FileNotFoundError as error:
        return _fail(error)
    names = [run.name for run in runs]
    for name in options.run or []:
        if name not in names:
            return _fail(f"There is no run {name!r}. Runs: {', '.join(names) or 'none'}.")
    runs = [run for run in runs if not options.run or run.name in options.run]
    if not runs:
        return _fail(
            f"No attention was recorded below {options.logdir!r}. Train with "
            "keras_sam.callbacks.AttentionTensorBoard."
        )
    runs = [run.thinned(options.steps) for run in runs]
    levels = options.levels
    if levels is None and sum(run.size for run in runs) > _LARGE:
        levels = _COARSE
        print(f"Weights have {levels} levels, to keep the page small (--levels 255: all).")
    if levels == _COARSE:
        runs = [run.coarser(levels) for run in runs]
    page = make_page(runs, f"attention: {pathlib.Path(options.logdir).name}")
    path = pathlib.Path(options.output)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        return _fail(f"The page cannot be written: {error}")
    steps = sum(len(run.steps) for run in runs)
    size = path.stat().st_size / 1e6
    print(f"{path}: {len(runs)} runs, {steps} steps, {size:.1f} MB")
    return 0


def _fail(message):
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
