"""Docstrings of this library as Markdown, for the API reference of the documentation site.

The reference is made by mkdocstrings, which knows the sections of Google's style. This
extension writes the others (`Call arguments`, `Masking`, ...) as Markdown, shows what
doctest runs as code, takes away the `::` before a block of code, and makes links of public
names and of pages of docs/.
"""

import ast
import pathlib
import re
import textwrap

import griffe

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("addons", "callbacks", "darknet", "masks", "normalizers", "scores")
# Names of packages and values, which the reference has no entry for.
NOT_LISTED = {"keras_sam.__version__", "keras_sam.layers", "keras_sam.distribution"}


def public_names():
    """Yields all names that are for users, read from `__all__` without any import."""
    for package in ("", *PACKAGES):
        path = ROOT.joinpath("keras_sam", package, "__init__.py")
        (names,) = (
            ast.literal_eval(node.value)
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        )
        prefix = f"keras_sam.{package}." if package else "keras_sam."
        yield from (prefix + name for name in names if prefix + name not in NOT_LISTED)


LISTS = ("Call arguments",)
TEXTS = ("Masking", "Output shape", "Returns", "Yields", "Reference", "References")
TEXTS += ("Example", "Examples")
# A name of arguments at the start of an entry: `query_mask, value_mask: Booleans ...`
ENTRY = re.compile(r"^(?P<names>[*\w]+(?:, (?:[*\w]+|\.\.\.))*): ", re.MULTILINE)
SECTION = re.compile(
    rf"^(?P<title>{'|'.join(LISTS + TEXTS)})(?P<more> \([^)\n]*\))?:(?P<literal>:?)\n"
    r"(?P<body>(?:[ ]{4}.*\n|\n)*)",
    re.MULTILINE,
)
INLINE = re.compile(rf"^(?P<title>{'|'.join(TEXTS)}): (?=\S)", re.MULTILINE)
DOCTEST = re.compile(r"^(?P<indent> *)>>> .*\n(?:(?P=indent)(?! *$).*\n)*", re.MULTILINE)
LITERAL = re.compile(r"^(?P<text>.*?)(?P<colons>::)$", re.MULTILINE)
FENCED = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
PUBLIC = set(public_names())
NAME = re.compile(r"(?<!\[)`(?:keras_sam\.(?:layers\.)?)?(?P<name>[A-Za-z_.]+)`(?!\])")
PAGE = re.compile(r"\bdocs/(?P<path>\w+)\.md\b")


def to_markdown(text):
    """Returns a docstring as mkdocstrings can read it."""
    text = DOCTEST.sub(_code, text.rstrip() + "\n")
    text = SECTION.sub(_section, text)
    text = INLINE.sub(r"**\g<title>:** ", text)
    text = LITERAL.sub(lambda found: found["text"] + ":" * bool(found["text"]), text)
    parts = FENCED.split(text)
    parts[::2] = [PAGE.sub(_page, NAME.sub(_name, part)) for part in parts[::2]]
    return "".join(parts)


def _name(found):
    """Returns a link to the entry of a class or function that is meant by its name."""
    path = f"keras_sam.{found['name']}"
    is_full = found[0].startswith("`keras_sam.")
    is_class = re.fullmatch(r"[A-Z]\w*[a-z]\w*|CBAM", found["name"])
    if path not in PUBLIC or not (is_full or is_class):
        return found[0]
    return f"[{found[0]}][{path}]"


def _page(found):
    path = ROOT / "docs" / f"{found['path']}.md"
    title = path.read_text("utf-8").split("\n", 1)[0].removeprefix("# ")
    return f"[{title}](../{found['path']}.md)"


def _code(found):
    code = textwrap.indent(f"```pycon\n{textwrap.dedent(found[0])}```\n", found["indent"])
    return code


def _section(found):
    title, body = found["title"], textwrap.dedent(found["body"]).strip("\n")
    heading = f"**{title}{found['more'] or ''}:**"
    if found["literal"]:
        return f"{heading}\n\n```python\n{body}\n```\n\n"
    if title in LISTS:
        body = ENTRY.sub(_entry, textwrap.indent(body, "    ", _continues))
    return f"{heading}\n\n{body}\n\n"


def _continues(line):
    return line[:1] == " "


def _entry(found):
    names = ", ".join(
        name if name == "..." else f"`{name}`" for name in found["names"].split(", ")
    )
    return f"- **{names}**: "


class Docstrings(griffe.Extension):
    """Rewrites every docstring that is read, and puts functions in front of modules.

    `keras_sam.convert` is a function, and the name of the package that has it. Who imports
    it gets the function. `keras_sam.scores.serialize` and its like are methods of one
    object, and are shown as the functions that they are for users.
    """

    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)

    def on_package(self, *, pkg, **kwargs):
        put_functions_first(pkg)
        methods = pkg["_strategies.Strategies"]
        for package in ("scores", "normalizers", "masks"):
            make_functions(pkg[package], methods)


def put_functions_first(module):
    """Lets imports stand for submodules of the same name, as they do in Python."""
    for name, target in module.imports.items():
        member = module.members.get(name)
        if member is None or member.is_alias or not member.is_module:
            continue
        if target.startswith(f"{member.path}."):
            inner = target.removeprefix(f"{member.path}.")
            module.members[name] = griffe.Alias(name, member[inner], parent=module)
    for member in list(module.members.values()):
        if not member.is_alias and member.is_module:
            put_functions_first(member)


def make_functions(module, methods):
    """Replaces attributes such as `get = _strategies_by_name.get` by functions."""
    for name, member in list(module.members.items()):
        found = re.fullmatch(
            r"_strategies_by_name\.(\w+)", str(getattr(member, "value", ""))
        )
        if not found or name.startswith("_"):
            continue
        method = methods[found[1]]
        module.members[name] = griffe.Function(
            name,
            lineno=member.lineno,
            endlineno=member.endlineno,
            docstring=member.docstring,
            parameters=griffe.Parameters(*list(method.parameters)[1:]),
            parent=module,
        )
