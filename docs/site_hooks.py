"""What the documentation site has beside the pages of docs/.

README.md is the home page and CHANGELOG.md the page of changes; their links into docs/ are
links between pages there. When the site is built, every public name must be in it.
"""

import ast
import pathlib
import zlib

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
HIDE_MENU = "---\nhide:\n  - navigation\n---\n"
PACKAGES = ("addons", "callbacks", "darknet", "masks", "normalizers", "scores")
NOT_LISTED = {"keras_sam.__version__", "keras_sam.layers", "keras_sam.distribution"}


def on_files(files, config):
    for page, source in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        for before, after in (("](docs/", "]("), ('src="docs/', 'src="')):
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
