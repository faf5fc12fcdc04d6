"""Docstrings of this library as Markdown, for the API reference of the documentation site.

The reference is made by mkdocstrings, which knows the sections of Google's style. This
extension writes the others (`Call arguments`, `Masking`, ...) as Markdown, shows what
doctest runs as code, and takes away the `::` before a block of code.
"""

import re
import textwrap

import griffe

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


def to_markdown(text):
    """Returns a docstring as mkdocstrings can read it."""
    text = DOCTEST.sub(_code, text.rstrip() + "\n")
    text = SECTION.sub(_section, text)
    text = INLINE.sub(r"**\g<title>:** ", text)
    return LITERAL.sub(lambda found: found["text"] + ":" * bool(found["text"]), text)


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
    it gets the function.
    """

    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)

    def on_package(self, *, pkg, **kwargs):
        put_functions_first(pkg)


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
