"""Hooks of the site: README is its first page, and the pages beside README and in decisions are pages too."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "RELEASE.md": "RELEASE.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Every decision has a place below the section of that name."""
    for section in config.nav:
        for title, entry in section.items():
            if entry == "decisions/":
                names = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
                names.sort(key=lambda name: name != "README.md")
                section[title] = [f"decisions/{name}" for name in names]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages that lie beside README."""
    for name, page in BESIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        below = re.sub(r"(?<=[\[(])docs/(?=[\w./-]*[\])])", "", text)
        files.append(File.generated(config, page, content=below))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository that are no pages lose their target: the site knows no forge."""

    def linked(found: re.Match[str]) -> str:
        picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if picture or re.match(r"[a-z]+:", target):
            return found[0]
        beside = target.removeprefix("../") if page.file.src_uri not in BESIDE.values() else target
        if beside in BESIDE:
            depth = "../" * page.file.src_uri.count("/")
            return f"[{text}]({depth}{BESIDE[beside]}{anchor})"
        folder = ROOT if page.file.src_uri in BESIDE.values() else (ROOT / "docs" / page.file.src_uri).parent
        inside = (folder / target).resolve()
        if target.endswith(".py") or (inside.exists() and not inside.is_relative_to(ROOT / "docs")):
            return text
        return found[0]

    return _LINK.sub(linked, markdown)
