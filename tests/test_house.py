"""The house rules that a reader counts on, read from the source itself."""

import ast
import doctest
import importlib
import inspect
import os
import pathlib
import subprocess
import sys
from importlib.util import find_spec

import keras
import pytest

import keras_sam

PACKAGE = pathlib.Path(keras_sam.__file__).parent
ROOT = PACKAGE.parent
SOURCES = {
    str(path.relative_to(ROOT)): path
    for package in ("keras_sam", "keras_sam_viewer")
    for path in sorted((ROOT / package).rglob("*.py"))
}
MODULES = [
    name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in SOURCES
]
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}


def collected(check):
    """Makes one test of a check of a file, which names all files that break the rule."""

    def test():
        broken = []
        for name in SOURCES:
            try:
                check(name)
            except AssertionError as error:
                broken.append(f"{name}: {error}")
        assert not broken, "\n".join(broken)

    return test


# Imports point down only, from a larger number to a smaller one, or stay at home.
LEVELS = {
    "keras_sam": 6,
    "keras_sam.callbacks": 5,
    "keras_sam.darknet": 5,
    "keras_sam.addons": 5,
    "keras_sam.convert": 5,
    "keras_sam.decoding": 5,
    "keras_sam.export": 5,
    "keras_sam.distribution": 5,
    "keras_sam._show": 5,
    "keras_sam._viewed": 4,
    "keras_sam.layers": 4,
    "keras_sam.attention": 3,
    "keras_sam.gates": 3,
    "keras_sam.scores": 2,
    "keras_sam.normalizers": 2,
    "keras_sam.masks": 2,
    "keras_sam.backend": 1,
    "keras_sam.recording": 1,
    "keras_sam.foreign": 0,
    "keras_sam._initializers": 0,
    "keras_sam._rows": 0,
    "keras_sam._signatures": 0,
    "keras_sam._startup": 0,
    "keras_sam._strategies": 0,
    "keras_sam._validation": 0,
    "keras_sam._version": 0,
}

# TensorFlow is for those who ask for it; below, the layers run on any backend.
MAY_IMPORT_TENSORFLOW = {
    "keras_sam/backend/xla.py": "compiles kernels with XLA, on that backend only",
    "keras_sam/backend/cores.py": "asks for the number of threads, on that backend only",
    "keras_sam/backend/loops.py": "stacks the rounds of loops, on that backend only",
    "keras_sam/backend/processes.py": "asks JAX for the number of this process",
    "keras_sam/backend/derivatives.py": "differentiates, with the backend's own means",
    "keras_sam/backend/own_gradient.py": "the same, where a library has a gradient",
    "keras_sam/backend/libraries.py": "asks for libraries, on their backend only",
    "keras_sam/backend/precision.py": "products with wider sums, on JAX only",
    "keras_sam/attention/library.py": "calls the kernels of JAX and PyTorch",
    "keras_sam/attention/pallas.py": "lays out kernels of JAX, on that backend only",
    "keras_sam/attention/pallas_kernels.py": "is imported on JAX only",
    "keras_sam/scores/additive_pallas.py": "is imported on JAX only",
}

# The viewer needs NumPy only, but for what meets TensorBoard.
MAY_IMPORT_TENSORBOARD = {
    "keras_sam_viewer/loader.py": {"tensorboard"},
    "keras_sam_viewer/plugin.py": {"tensorboard", "werkzeug"},
    "keras_sam_viewer/reader.py": {"tensorboard"},
}

# Files of more than 300 lines, with the reason.
LONG = {
    "keras_sam/layers/selective_attention.py": "half of it is its docstring and lists",
    "keras_sam/attention/flash.py": "two passes, and the tiles that they loop over",
    "keras_sam/attention/pallas_kernels.py": "three programs that share their tiles",
    "keras_sam/callbacks/attention_tensorboard.py": "a third of it is its docstring",
    "keras_sam/decoding/decoder.py": "a third of it is docstrings",
    "keras_sam/layers/self_attention.py": "half of it is its docstring",
    "keras_sam/layers/_multi_head.py": "a third of it lists arguments, stored and saved",
    "keras_sam/scores/additive.py": "a score with its kernel, as long as both together",
}


def imports(name):
    """Yields the absolute names of all modules that a file imports, anywhere in it."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def home(module):
    """The part of the house that a module belongs to: the longest name of a level."""
    rooms = [room for room in LEVELS if module == room or module.startswith(f"{room}.")]
    return max(rooms, key=len)


@collected
def test_imports_point_down(name):
    if not name.startswith("keras_sam/"):
        return
    module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    here = home(module)
    assert here != "keras_sam" or module == here, f"{module} has no level in LEVELS"
    for imported in imports(name):
        if imported.split(".")[0] != "keras_sam" or home(imported) == here:
            continue
        assert LEVELS[home(imported)] < LEVELS[here], f"{module} imports {imported}"


@collected
def test_backends_are_imported_from_above_only(name):
    module = name.removesuffix(".py").replace("/", ".")
    roots = {imported.split(".")[0] for imported in imports(name)}
    if name.startswith("keras_sam_viewer/"):
        assert not roots & {"keras", "tensorflow", "keras_sam"}
        allowed = {"numpy", "keras_sam_viewer", *sys.stdlib_module_names}
        assert roots <= allowed | MAY_IMPORT_TENSORBOARD.get(name, set())
    elif LEVELS[home(module)] < 5 and name not in MAY_IMPORT_TENSORFLOW:
        assert not roots & {"tensorflow", "tensorboard", "jax", "torch"}


@pytest.mark.skipif(find_spec("jax") is None, reason="needs JAX")
def test_the_layers_need_no_tensorflow():
    program = """
import sys, numpy, keras_sam
keras_sam.SelfAttention(2)(numpy.ones((1, 3, 4)))
assert "tensorflow" not in sys.modules
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment)


# What the Darknet importer is made of is not for users.
INNER_PACKAGES = tuple(
    f"keras_sam.darknet.{name}"
    for name in ("commands", "layers", "planners", "specs", "translators")
)


def imported(name):
    """Returns a module, or None if it is for JAX alone, which is not installed here."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "jax":
            raise
        return None


def public_modules():
    for name in MODULES:
        if any(part.startswith("_") for part in name.split(".")):
            continue
        if name.startswith(("keras_sam_viewer", *INNER_PACKAGES)):
            continue
        module = imported(name)
        if hasattr(module, "__all__"):
            yield module


@pytest.mark.tensorflow
def test_all_is_what_can_be_imported():
    for module in public_modules():
        names = module.__all__
        assert len(names) == len(set(names)), module
        assert list(names) == sorted(names, key=sort_key), module
        for name in names:
            assert getattr(module, name) is not None, (module, name)
        found = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "").startswith(("keras_sam", module.__name__))
            and not inspect.ismodule(value)
        }
        assert found <= set(names), f"{module.__name__}: {found - set(names)}"


def sort_key(name):
    """The order of ruff's RUF022: constants, classes, the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.tensorflow
def test_nothing_else_can_be_imported():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        keras_sam.nothing  # noqa: B018


def public_classes():
    for module in public_modules():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                yield value


@pytest.mark.tensorflow
def test_public_classes_have_an_example():
    classes = set(public_classes())
    assert len(classes) > 10
    for cls in classes:
        doc = inspect.getdoc(cls)
        assert doc, cls
        if cls.__module__.startswith("keras_sam.addons"):
            continue  # they are there to be loaded, not to be made
        if issubclass(cls, keras.layers.Layer | keras.callbacks.Callback):
            assert "Example" in doc, cls
            assert ">>>" in doc, cls
        if issubclass(cls, keras.layers.Layer) and "Base class" not in doc:
            assert "Reference" in doc, cls
            assert "http" in doc, cls


@pytest.mark.tensorflow  # the examples print shapes as TensorFlow does
def test_examples_in_docstrings():
    failed, examples = {}, 0
    for name in MODULES:
        keras.utils.set_random_seed(0)
        module = imported(name)
        if module is None:
            continue
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        examples += result.attempted
        if result.failed:
            failed[name] = result.failed
    assert examples > 100
    assert not failed


@collected
def test_files_are_short(name):
    lines = len(SOURCES[name].read_text().splitlines())
    if name in LONG:
        assert lines > 300, f"{name} is short by now"
    else:
        assert lines <= 300, f"{name} has {lines} lines: give the reason in LONG"


# A ValueError that no user sees needs not say what was received.
# One about a file says what is in the file.
INNER_ERRORS = {
    "keras_sam/callbacks/_tokens.py": "the callback logs it and goes on",
    "keras_sam/addons/conversion.py": "names the layer and what of it cannot be had",
    "keras_sam/addons/loading.py": "names the file and what it does not have",
    "keras_sam/addons/unmapped.py": "names the class and what to do instead",
}


@collected
def test_value_errors_say_what_was_received(name):
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
            continue
        raised = getattr(node.exc.func, "id", "")
        if raised == "ValueError" and name not in INNER_ERRORS:
            text = ast.unparse(node.exc)
            assert "Received: " in text, f"{name}:{node.lineno} {text}"


@collected
def test_every_module_says_what_it_is(name):
    if SOURCES[name].read_text().strip():
        assert ast.get_docstring(TREES[name]), name


@collected
def test_sums_are_written_with_plus(name):
    """On TensorFlow, `keras.ops.add` takes some sums for biases, of another axis."""
    assert "ops.add(" not in SOURCES[name].read_text()
