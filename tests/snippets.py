"""The Python blocks of README.md and of docs/, and how they are run.

A block of `text` right behind a block of Python is what that prints; `...` is anything. A
block below the comment `<!-- not run: reason -->` is left out.
"""

import contextlib
import dataclasses
import doctest
import io
import json
import os
import pathlib
import re
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```python\n(?P<code>.*?)^```$"
    r"(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of Python.

    Args:
        line: The lines of the page above it.
        code: Its lines.
        output: What it has to print, or None for anything.
        left_out: The reason why it is not run, or None.
    """

    line: int
    code: str
    output: str | None = None
    left_out: str | None = None


def blocks_of(text):
    """Returns the blocks of a page."""
    return [
        Block(
            text[: found.start("code")].count("\n"),
            found["code"],
            found["output"],
            found["reason"],
        )
        for found in BLOCK.finditer(text)
    ]


def run(path, blocks, namespace):
    """Runs blocks in one namespace, in a new folder, and returns what went wrong or ''."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return "".join(_run(path, each, namespace) for each in blocks)
        except Exception:
            return traceback.format_exc()
        finally:
            os.chdir(before)


def _run(path, block, namespace):
    code = compile("\n" * block.line + block.code, path, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, namespace)
    if block.output is None:
        return ""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if doctest.OutputChecker().check_output(block.output, printed.getvalue(), flags):
        return ""
    return (
        f"{path}:{block.line} has to print\n{block.output}and printed\n{printed.getvalue()}"
    )


def main(pages, results):
    """Runs pages, each `[name, code before, code after]`, and writes what went wrong."""
    problems = {}
    for name, before, after in json.loads(pathlib.Path(pages).read_text("utf-8")):
        path = ROOT / name
        blocks = blocks_of(path.read_text("utf-8"))
        blocks = [block for block in blocks if not block.left_out]
        alone = path.name == "README.md"
        for group in [[block] for block in blocks] if alone else [blocks]:
            whole = [Block(0, before), *group, Block(0, after)]
            problem = run(str(path), whole, {"__name__": "__main__"})
            problems[name] = problems.get(name, "") + problem
    pathlib.Path(results).write_text(json.dumps(problems), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
