"""Hooks of mkdocs: pages of the repository's root join the site, and links to source files lead to copies of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = {"README.md": "index.md"}
ROOT_PAGES |= {f"{name}.md": f"{name.lower()}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG")}
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository's root, and the source files that any page links to."""
    for name, uri in ROOT_PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding="utf-8")))
    for file in list(files.documentation_pages()):
        for target, _ in LINK.findall(file.content_string):
            source = _source(file.src_uri, target)
            uri = f"source/{source}"
            if source and (ROOT / source).is_file() and not files.get_file_from_path(uri):
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page to where their targets are in the site."""

    def rewritten(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = _path(page.file.src_uri, target)
        source = _source(page.file.src_uri, target)
        if path in ROOT_PAGES:
            uri = ROOT_PAGES[path]
        elif source:
            uri = f"source/{source}"
        else:
            uri = path.removeprefix("docs/")
        return f"]({os.path.relpath(uri, Path(page.file.src_uri).parent)}{anchor})"

    return LINK.sub(rewritten, markdown)


def _path(uri: str, target: str) -> str:
    """The path below the repository's root that a link of a page leads to."""
    folder = Path() if uri in ROOT_PAGES.values() else Path("docs") / Path(uri).parent
    return os.path.normpath(folder / target)


def _source(uri: str, target: str) -> str | None:
    """That path, if it is a file of the repository that is no page of the site."""
    path = _path(uri, target)
    return None if path.startswith("docs/") or path in ROOT_PAGES else path


def on_config(config: MkDocsConfig) -> Any:
    """Build the same site wherever make was started."""
    os.chdir(ROOT)
    return config
