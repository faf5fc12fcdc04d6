"""Every example runs in its quick setting and prints and writes what it promises."""

import dataclasses
import pathlib
import re

import pytest
from fresh_process import run_python

pytestmark = pytest.mark.tensorflow

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
PERCENT = r"([\d.]+)%"
SMALL = r"(\d\.\de[-+]\d\d)"
LOGS = ("train/events.*", "attention/events.*")


@dataclasses.dataclass(frozen=True)
class Example:
    """What the quick run of an example must show.

    Args:
        name: The file's name without its ending.
        numbers: What is printed before or around a number, as a regular expression with
            one group, and between which bounds all numbers found must lie.
        files: Patterns of files that it writes.
    """

    name: str
    numbers: dict
    files: tuple = LOGS


TABLE = (
    Example(
        "quickstart",
        {
            f"Largest difference of model.keras in a new process: {SMALL}": (0, 1e-6),
            f"Largest difference of the SavedModel in a new process: {SMALL}": (0, 1e-5),
            r"Served attention of compare: \((\d+), 2, 8, 8\)": (500, 500),
            f"self-attention, seed 0, with   : +{PERCENT}": (30, 100),
            f"selective attention, seed 0, with   : +{PERCENT}": (50, 100),
            f"selective attention, seed 0, without: +{PERCENT}": (10, 50),
            f"spatial attention, seed 0, with   : +{PERCENT}": (12, 100),
        },
        (*LOGS, "model.keras", "saved_model/saved_model.pb", "attention.html"),
    ),
    Example(
        "classify_docstrings",
        {
            r"(\d+) sentences to learn from": (2000, 10_000),
            f"always the most frequent package: {PERCENT}": (10, 35),
            f"mean of the words: {PERCENT}": (45, 95),
            f"self-attention, then mean: {PERCENT}": (45, 95),
            f"selective attention: {PERCENT}": (45, 95),
            r"asyncio: \w+ (\d+\.\d), ": (1, 40),
            r"xml: \w+ (\d+\.\d), ": (1, 40),
        },
        ("*/train/events.*", "*/attention/events.*"),
    ),
    Example(
        "classify_documents",
        {
            r"(\d+) documents to learn from": (500, 5000),
            f"always the most frequent package: {PERCENT}": (10, 35),
            f"without attention: {PERCENT}": (40, 100),
            f"hierarchical attention: {PERCENT}": (40, 100),
            r"(?:asyncio|xml): (\d+)% of the weight of": (5, 100),
        },
    ),
    Example(
        "select_features",
        {
            f"SelectiveAttention +{PERCENT}": (70, 100),
            f"SelectKBest +{PERCENT}": (80, 100),
            f"permutation importance +{PERCENT}": (20, 100),
            f"Drawn blindly: {PERCENT}": (50, 50),
        },
    ),
    Example(
        "answer_questions",
        {
            r"(\d+) others to test on": (800, 1000),
            f"most frequent answer: {PERCENT}": (10, 30),
            f"without attention: {PERCENT}": (15, 75),
            f"two hops: {PERCENT}": (80, 100),
            f"hop 2: .* where they went in {PERCENT}": (70, 100),
        },
    ),
    Example(
        "translate_numbers",
        {
            r"(\d+) held out": (200, 200),
            f"Exact match on held-out numbers: {PERCENT}": (60, 100),
        },
    ),
    Example(
        "write_code",
        {
            r"(\d+) pieces of \d.\d\d characters in 12 files": (10_000, 1_000_000),
            r"seed 0, attention: (\d\.\d+) bits a character": (1, 6),
            r"counting, all files +(\d\.\d+)": (1, 4),
            r"(\d+) pieces a second (?:with|recomputing)": (1, 100_000),
            f"Equal pieces of both: {PERCENT}": (90, 100),
            f"Equal pieces of the loaded model in a new process: {PERCENT}": (100, 100),
        },
        (*LOGS, "model.keras", "attention.html"),
    ),
    Example(
        "draw_digits",
        {
            r"seed 0, with\w*(?: attention)? *: (\d\.\d+) bits a pixel": (1, 4.1),
            f"the right digit +{PERCENT}": (0, 100),
            f"copies of training pictures +{PERCENT}": (0, 100),
        },
        (*LOGS, "digits.png"),
    ),
    Example(
        "locate_digit",
        {
            f"(?:no|CBAM's|YOLOv4's) gate +{PERCENT}": (5, 60),  # digits, by chance 10%
            f"Of an even map, {PERCENT}": (10, 20),
        },
        ("*/attention/events.*",),
    ),
)


@pytest.mark.parametrize("example", TABLE, ids=lambda example: example.name)
def test_example(example, tmp_path):
    output = tmp_path / "output"
    script = EXAMPLES / f"{example.name}.py"
    printed = run_python(script, "--quick", "--output", output, cwd=tmp_path)
    for pattern, (least, most) in example.numbers.items():
        numbers = [float(number) for number in re.findall(pattern, printed)]
        assert numbers, f"{pattern!r} is not in:\n{printed}"
        assert all(least <= number <= most for number in numbers), (pattern, numbers)
    for pattern in example.files:
        assert any(path.stat().st_size for path in output.glob(pattern)), pattern
    assert re.search("Epoch 1/|seed 0, with ", printed)  # progress
    assert re.search(rf"tensorboard --logdir {re.escape(str(output))}\b.*\s*$", printed)
