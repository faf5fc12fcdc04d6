"""Makes notebooks of guides, and runs them: the guide is the one source.

    python docs/notebooks.py

Each block of Python becomes a cell, and the text between them cells of Markdown. Blocks
that tell what is printed are left out, because the notebook has the output itself. Needs
the extras `notebooks`, `tensorflow` and `examples`.
"""

import json
import pathlib
import re
import tempfile

HERE = pathlib.Path(__file__).parent
GUIDES = ("text", "images")
PARTS = re.compile(
    r"^```python\n(?P<code>.*?)\n```$|^```text\n.*?^```$", re.DOTALL | re.MULTILINE
)
# Pictures of a page that the notebook itself shows, and the sentence before them.
PICTURE = re.compile(
    r"^The page looks like this.*?\n\n!\[[^]]*\]\([^)]*\)\n\n", re.DOTALL | re.MULTILINE
)
LINK = re.compile(r"\]\((?=\w+\.md)")  # to another guide


def cells_of(text):
    """Returns the cells of a guide as pairs of a kind and a source."""
    text = LINK.sub("](../guides/", PICTURE.sub("", text))
    cells, end = [], 0
    for found in PARTS.finditer(text):
        cells.append(("markdown", text[end : found.start()].strip()))
        cells.append(("code", found["code"] or ""))
        end = found.end()
    cells.append(("markdown", text[end:].strip()))
    return [(kind, source) for kind, source in cells if source]


def notebook_of(text):
    """Returns the notebook of a guide, not run yet."""
    import nbformat

    make = {
        "markdown": nbformat.v4.new_markdown_cell,
        "code": nbformat.v4.new_code_cell,
    }
    cells = [make[kind](source) for kind, source in cells_of(text)]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same each time
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    return notebook


def run(notebook):
    """Runs a notebook and keeps what it shows, without the times."""
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        cell["outputs"] = [
            output for output in cell.get("outputs", []) if output.get("name") != "stderr"
        ]
        if cell.cell_type == "markdown":
            del cell["outputs"]
    notebook.metadata.pop("language_info", None)


if __name__ == "__main__":
    for guide in GUIDES:
        notebook = notebook_of((HERE / "guides" / f"{guide}.md").read_text("utf-8"))
        run(notebook)
        path = HERE / "notebooks" / f"{guide}.ipynb"
        # (Not by nbformat, which writes each line of a page as a string of its own.)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(path.name, path.stat().st_size, "bytes")
