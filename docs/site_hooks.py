"""What the documentation site has beside the pages of docs/.

README.md is the home page and CHANGELOG.md the page of changes; their links into docs/ are
links between pages there. When the site is built, every public name must be in it.
"""

import pathlib
import zlib

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from site_docstrings import public_names

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
HIDE_MENU = "---\nhide:\n  - navigation\n---\n"


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
    return files


def on_post_build(config):
    """Checks that the API reference has every public name."""
    inventory = pathlib.Path(config.site_dir, "objects.inv").read_bytes()
    lines = zlib.decompress(inventory.split(b"\n", 4)[4]).decode().splitlines()
    documented = {line.split(" ")[0] for line in lines}
    missing = [name for name in public_names() if name not in documented]
    if missing:
        raise PluginError(f"No page of docs/api has {', '.join(missing)}.")
