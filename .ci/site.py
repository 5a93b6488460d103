"""The pages of the docs site that are not in docs/: a hook of MkDocs.

README is its home; CHANGELOG and CONTRIBUTING are pages; so is each notebook, with its outputs, and
each public module, of its docstrings. The menu has every page there is.
"""

import base64
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import ptsne_keras  # noqa: E402  (needs no TensorFlow)

# Guides in the order of a reader's questions; others follow, by name.
ORDER = ["command_line", "pictures", "choosing", "evaluation", "keras", "maps", "inverse", "cells"]
ORDER += ["serving", "bulk", "bad_input"]
MEASURED = ["peers", "paper", "experiments"]
# Where what lies in the tree is on the site; links to the left side are rewritten.
MOVED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "notebooks/README.md": "notebooks/index.md",
}
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
# What a browser would fetch to show a page, from elsewhere.
FETCHED = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]+"
    r"|<link\b[^>]*\brel=\"(?:stylesheet|preload|preconnect)\"[^>]*\bhref=\"(?:https?:)?//[^\"]+"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the menu."""
    guides = {page.stem for page in Path(config.docs_dir).glob("*.md")}
    first = [name for name in ORDER if name in guides]
    measured = [name for name in MEASURED if name in guides]
    others = sorted(guides - {*first, *measured})
    notebooks = [f"notebooks/{file.stem}.md" for file in _notebooks()]
    config.nav = [
        {"Home": "index.md"},
        {"Guides": [f"{name}.md" for name in first + others]},
        {"Notebooks": [{"Overview": "notebooks/index.md"}, *notebooks]},
        {"Measured": [f"{name}.md" for name in measured]},
        {"Reference": [{name: f"api/{name}.md"} for name in _references()]},
        {"Project": [{"Changes": "changelog.md"}, {"Contributing": "contributing.md"}]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for source, target in MOVED.items():
        text = _relinked((ROOT / source).read_text(), source, target)
        files.append(File.generated(config, target, content=text))
    for file in list(files.documentation_pages()):
        if file.abs_src_path:  # a page of docs/
            source = f"docs/{file.src_uri}"
            text = _relinked((ROOT / source).read_text(), source, file.src_uri)
            files.remove(file)
            files.append(File.generated(config, file.src_uri, content=text))
    for notebook in _notebooks():
        for name, content in _notebook_pages(notebook):
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for name, objects in _references().items():
        blocks = [f"# {name}", *(f"::: {path}" for path in objects)]
        files.append(File.generated(config, f"api/{name}.md", content="\n\n".join(blocks)))
    return files


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that fetches something from elsewhere: none is needed to read the site."""
    found = FETCHED.findall(output)
    if found:
        raise PluginError(f"{page.file.src_uri} should fetch nothing. Received: {found[0]}.")
    return output


def _references() -> dict[str, list[str]]:
    """Pages of the reference, and what each shows."""
    names = sorted(ptsne_keras._NAMES.items(), reverse=True)  # ParametricTSNE first
    classes = {name: [f"ptsne_keras.{module}.{name}"] for name, module in names}
    return classes | {name: [f"ptsne_keras.{name}"] for name in sorted(ptsne_keras._SUBPACKAGES)}


def _notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def _relinked(text: str, source: str, target: str) -> str:
    """Point links of the file `source` of the tree to where things are on the site."""

    def new(match: re.Match[str]) -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(source), match[2]))
        place = MOVED.get(path, path.removeprefix("docs/"))
        if place.startswith("notebooks/"):
            place = re.sub(r"\.ipynb$", ".md", place)
        return match[1] + os.path.relpath(place, os.path.dirname(target) or ".")

    return LINK.sub(new, text)


def _notebook_pages(file: Path) -> Iterator[tuple[str, str | bytes]]:
    """Make the page of a notebook, and its pictures."""
    parts = []
    for number, cell in enumerate(json.loads(file.read_text())["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = f"notebooks/{file.name}"
            parts.append(_relinked(text, source, source))
            continue
        parts.append(f"```python\n{text}\n```")
        for index, output in enumerate(cell["outputs"]):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{file.stem}_{number}_{index}.png"
                yield name, base64.b64decode("".join(data["image/png"]))
                parts.append(f"![Output of the code above]({name})")
            else:
                shown = "".join(output.get("text") or data.get("text/plain", ""))
                parts.append(f"```text\n{shown.rstrip()}\n```")
    yield f"{file.stem}.md", "\n\n".join(parts) + "\n"
