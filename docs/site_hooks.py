"""What the documentation site has beside the pages of docs/.

README.md is the home page and CHANGELOG.md the page of changes; their links into docs/ are
links between pages there. The viewer's pages, which the notebooks contain, are pages to
open. When the site is built, every public name must be in it.
"""

import html
import json
import pathlib
import re
import zlib

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from site_docstrings import public_names

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
HIDE_MENU = "---\nhide:\n  - navigation\n---\n"
NOTEBOOKS = ("text", "images")
SHOWN = re.compile(r"^```python\n(?:(?!```).*\n)*keras_sam\.show\(.*\n```\n", re.MULTILINE)
VIEWER = """
Open an example: [words of a review](viewer_text.html){target=_blank}, or
[positions of a handwritten digit](viewer_images.html){target=_blank}.

## Opening the viewer
"""


def on_files(files, config):
    for page, source in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        for before, after in (
            ("](docs/", "]("),
            ('src="docs/', 'src="'),
            ('srcset="docs/', 'srcset="'),
        ):
            text = text.replace(before, after)
        if page == "index.md":
            text = HIDE_MENU + text
        files.append(File.generated(config, page, content=text))
    for name in NOTEBOOKS:
        text = viewer_page(ROOT / "docs" / "notebooks" / f"{name}.ipynb")
        files.append(File.generated(config, f"viewer_{name}.html", content=text))
    return files


def viewer_page(notebook):
    """Returns the page of the viewer that a notebook shows in a frame."""
    shown = [
        "".join(output["data"]["text/html"])
        for cell in json.loads(notebook.read_text("utf-8"))["cells"]
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", ())
    ]
    (frame,) = (re.search(r'srcdoc="([^"]*)"', text) for text in shown)
    return html.unescape(frame[1])


def on_page_markdown(markdown, page, **kwargs):
    """Links the pages of the viewer where they are made, and where they are explained."""
    if page.file.src_uri == "viewer.md":
        return markdown.replace("\n## Opening the viewer\n", VIEWER, 1)
    for name in NOTEBOOKS:
        if page.file.src_uri == f"guides/{name}.md":
            link = f"\n[Open this page](../viewer_{name}.html){{target=_blank}}\n"
            return SHOWN.sub(r"\g<0>" + link, markdown, count=1)
    return markdown


def on_post_build(config):
    """Checks that the API reference has every public name."""
    inventory = pathlib.Path(config.site_dir, "objects.inv").read_bytes()
    lines = zlib.decompress(inventory.split(b"\n", 4)[4]).decode().splitlines()
    documented = {line.split(" ")[0] for line in lines}
    missing = [name for name in public_names() if name not in documented]
    if missing:
        raise PluginError(f"No page of docs/api has {', '.join(missing)}.")
