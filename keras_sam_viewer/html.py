"""One offline HTML page with the viewer and the blobs of runs."""

import base64
import hashlib
import html
import json
import pathlib
import re

STATIC = pathlib.Path(__file__).parent / "static"
_IMPORT = re.compile(r'^import\s+(?:\{[^}]*\}\s+from\s+)?"\./([\w.-]+\.js)";[ \t]*\n', re.M)
_EXPORT = re.compile(r"^export\s+(?=(?:async\s+)?(?:function|const|let|class)\b)", re.M)
_POLICY = (
    "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; "
    "img-src data: blob:; worker-src blob:; base-uri 'none'; form-action 'none'"
)
_ICON = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E"


def make_page(runs, title="attention"):
    """Returns the text of a page that shows runs, and needs nothing else.

    Args:
        runs: `Run`s, or anything with `name`, `steps` and `blobs`.
        title: The title of the page.
    """
    script = join_modules("index.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    listed = [{"name": run.name, "steps": list(run.steps)} for run in runs]
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY.format(digest)}">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        f'<link rel="icon" href="{_ICON}">\n',
        f"<title>{html.escape(title)}</title>\n",
        f"<style>\n{_text('style.css')}</style>\n</head>\n<body>\n",
        _data("application/json", "ks:runs", _json({"runs": listed})),
    ]
    for index, run in enumerate(runs):
        for key, blob in run.blobs.items():
            text = base64.b64encode(blob).decode()
            parts.append(_data("application/octet-stream", f"ks:{index}:{key}", text))
    parts.append(
        f'<script type="module" id="ks:script">{script}</script>\n</body>\n</html>\n'
    )
    return "".join(parts)


class Page:
    """A page that was written, and that shows itself in a notebook.

    Args:
        text: The text of the page.
        path: Where it was written.
    """

    def __init__(self, text, path):
        self.text = text
        self.path = path

    def _repr_html_(self):
        return make_frame(self.text)

    def __repr__(self):
        return f"<attention in {self.path!r}, {len(self.text) / 1e6:.1f} MB>"


def make_frame(page, height=760):
    """Returns a page as an element `iframe`, for the output of a notebook cell."""
    # In ASCII, whatever the encoding of the page around it: the script has a checksum.
    text = html.escape(page).encode("ascii", "xmlcharrefreplace").decode()
    return (
        f'<iframe srcdoc="{text}" title="attention" allowfullscreen '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )


def join_modules(entry):
    """Returns a module of `static/` and all that it imports as one module.

    Lines of imports and the word `export` are left out. So top-level names have to be
    different in all modules, and imports have to stand at the beginning of lines.
    """
    order, state = [], {}

    def visit(name):
        if state.get(name) == "done":
            return
        state[name] = "open"  # modules that import each other are joined in any order
        source = _text(name)
        for imported in _IMPORT.findall(source):
            if imported not in state:
                visit(imported)
        state[name] = "done"
        order.append(_EXPORT.sub("", _IMPORT.sub("", source)))

    visit(entry)
    script = "\n" + "\n".join(order)
    if re.search(r"</script|<!--", script, re.I):
        raise RuntimeError("A module of the viewer has text that would end its element.")
    return script


def _text(name):
    return (STATIC / name).read_text(encoding="utf-8")


def _data(kind, name, text):
    return f'<script type="{kind}" id="{name}">{text}</script>\n'


def _json(value):
    # Within an element `script` only "<" could be taken for something else.
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c")
