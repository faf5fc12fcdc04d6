"""The rules that let the page's modules be joined into one script, read from their text."""

import re

from viewer_server import STATIC

MODULES = {path.name: path.read_text() for path in sorted(STATIC.glob("*.js"))}
IMPORT = re.compile(r'^import \{([\w, ]+)\} from "\./(\w+\.js)";$', re.MULTILINE)
TOP_LEVEL = re.compile(
    r"^(?:export )?(?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE
)


def collected(check):
    """Makes one test of a check of a module, which names all modules that fail it."""

    def test():
        broken = []
        for name in MODULES:
            try:
                check(name)
            except AssertionError as error:
                broken.append(f"{name}: {error}")
        assert MODULES
        assert not broken, "\n".join(broken)

    return test


@collected
def test_imports_are_plain_used_and_there(name):
    text = MODULES[name]
    lines = [line for line in text.splitlines() if line.startswith("import")]
    found = IMPORT.findall(text)
    assert len(lines) == len(found), "an import is not of the one form"
    for names, module in found:
        for imported in names.split(", "):
            exported = rf"^export (?:async )?(?:function\*?|const|class) {imported}\b"
            assert re.search(exported, MODULES[module], re.MULTILINE), imported
            assert len(re.findall(rf"\b{imported}\b", text)) > 1, f"{imported} is not used"


def test_top_level_names_are_unique():
    owners = {}
    for name, text in MODULES.items():
        for defined in TOP_LEVEL.findall(text):
            assert defined not in owners, (defined, name, owners[defined])
            owners[defined] = name


@collected
def test_nothing_becomes_markup_or_leaves_the_page(name):
    text = MODULES[name]
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text
    assert not re.search(r"https?://", text)
    assert "import(" not in text
    assert "import.meta" not in text


@collected
def test_modules_are_short_and_say_what_they_are(name):
    lines = MODULES[name].splitlines()
    assert lines[0].startswith("// ")
    assert len(lines) <= 300
