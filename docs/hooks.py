"""Hooks of the documentation site (mkdocs.yml): pages that lie outside docs/, and links between pages.

The pages link to one another and to other files of the repository as files do, so that the links also work where the
repository is browsed. On the site, a link to a page leads to that page; a link to a picture brings the picture to the
site; and a link to any other file becomes the path of the file, because the site does not hold the file.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PICTURES = (".png", ".svg")
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]+)?\)")
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
# What a browser would fetch from elsewhere. A link that a reader follows is no such thing.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?https?:|<link[^>]*stylesheet[^>]*href=\"?https?:", re.I
)

log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that lie outside docs/, and the pictures that pages show."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for picture in sorted(pictures(files)):
        files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    return files


def pictures(files: Files) -> set[str]:
    """The pictures outside docs/ that pages show, as paths in the repository."""
    shown = {
        resolve(source_of(file.src_uri), link["target"])
        for file in files.documentation_pages()
        for link in LINK.finditer(file.content_string)
        if link["picture"]
    }
    return {path for path in shown if not path.startswith("docs/") and (ROOT / path).is_file()}


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Change the links of a page to what they are on the site. Code is left as it is."""
    parts = CODE.split(re.sub(r"<!--.*?-->\n?", "", markdown))
    # Every second part is code. A link whose text is code is divided, so it is put together again first.
    text = "".join(part if i % 2 == 0 else f"\0{i}\0" for i, part in enumerate(parts))
    text = LINK.sub(lambda link: site_link(link, page.file.src_uri, files), text)
    text = re.sub("\0(\\d+)\0", lambda place: parts[int(place[1])], text)
    return re.sub(r"^  \* ", "    * ", text, flags=re.MULTILINE)  # Python-Markdown nests a list by four spaces


def site_link(link: re.Match[str], page: str, files: Files) -> str:
    """The link as it is on the site; a link to a file that does not exist is left, and mkdocs warns about the link."""
    target, anchor = link["target"], link["anchor"] or ""
    if re.match(r"\w+:", target):
        return link[0]
    path = resolve(source_of(page), target)
    uri = PAGES.get(path, path.removeprefix("docs/"))
    if files.get_file_from_path(uri):
        return f"{link['picture']}[{link['text']}]({posixpath.relpath(uri, posixpath.dirname(page) or '.')}{anchor})"
    if not (ROOT / path).exists():
        return link[0]
    same = link["text"].strip("`") == path
    return f"`{path}`" if same else f"{link['text']} (`{path}`)"


def source_of(page: str) -> str:
    """The path in the repository of a page of the site."""
    return next((source for source, uri in PAGES.items() if uri == page), f"docs/{page}")


def resolve(source: str, target: str) -> str:
    """The path in the repository to which `target` points in the file `source`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warn about what a browser would fetch from elsewhere: the site must be readable without a network."""
    for element in FETCHED.findall(output):
        log.warning("a browser that shows %s would fetch something from elsewhere: %s", page.file.src_uri, element)
    return output
