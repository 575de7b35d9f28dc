"""Docstrings as Markdown: Google's sections become lists, reStructuredText's roles links."""

import inspect
import re
import textwrap
from collections.abc import Iterator

COLUMNS = 100
_SECTIONS = ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:")
_ROLE = re.compile(r":(?:func|class|meth|mod|attr):`~?([^`]+)`")


def slug(heading: str) -> str:
    """A heading's anchor, the same on forges and in the site."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


def prose(docstring: str | None, anchors: dict[str, str]) -> Iterator[str]:
    """A docstring as Markdown: paragraphs as they are, its sections as lists."""
    assert docstring, "every public name has a docstring"
    section: list[str] = []
    first = True
    for block in _blocks(inspect.cleandoc(docstring)):
        if block[0] in _SECTIONS:
            section = block[1:]
            yield from ("", f"**{block[0]}**", "")
            yield from _section(block[0], textwrap.dedent("\n".join(section)), anchors)
        else:
            yield from () if first else ("",)
            yield from _wrapped(block, anchors)
        first = False


def _blocks(text: str) -> Iterator[list[str]]:
    """Paragraphs, and each section with all of its lines."""
    held: list[str] = []
    for line in [*text.splitlines(), ""]:
        starts = line in _SECTIONS
        inside = bool(held) and held[0] in _SECTIONS
        if held and (starts or (not inside and not line) or (inside and line and not line.startswith(" "))):
            yield held
            held = []
        if line or inside:
            held.append(line)
    while held and not held[-1]:
        held.pop()
    if held:
        yield held


def _section(title: str, text: str, anchors: dict[str, str]) -> Iterator[str]:
    """Each `name: what` as an item; a section without names as a paragraph."""
    items: list[list[str]] = []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            items.append([line])
        elif items and line:
            items[-1].append(line.strip())
    if title in ("Returns:", "Yields:"):
        yield from _wrapped([line for item in items for line in item], anchors)
        return
    for item in items:
        whole = " ".join(item)
        name, colon, what = whole.partition(": ")
        if not colon:
            yield from _wrapped([f"- {whole}"], anchors, "  ")
            continue
        named = ", ".join(f"`{part.strip()}`" for part in name.replace("``", "").split(","))
        yield from _wrapped([f"- {named}: {what}"], anchors, "  ")


def _wrapped(lines: list[str], anchors: dict[str, str], indent: str = "") -> Iterator[str]:
    if any(line.startswith("    ") for line in lines):
        yield from ("```text", *textwrap.dedent("\n".join(lines)).splitlines(), "```")
        return
    text = _marked(" ".join(lines), anchors)
    yield from textwrap.wrap(
        text, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _marked(text: str, anchors: dict[str, str]) -> str:
    """reStructuredText's roles and quotes as Markdown's; what Markdown would read as its own is escaped."""

    def linked(found: re.Match[str]) -> str:
        name = found[1]
        for spelled in (name, f"pydelta.{name}", ".".join(name.split(".")[-2:])):
            if spelled in anchors:
                return f"[`{name}`](#{anchors[spelled]})"
        return f"`{name}`"

    parts = re.split(r"(``[^`]+``|:[a-z]+:`[^`]+`|`[^`]+`)", text)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = re.sub(r"([*<])", r"\\\1", part)
        elif part.startswith(":"):
            parts[number] = _ROLE.sub(linked, part)
        elif page := re.fullmatch(r"``docs/([\w/-]+\.md)``", part):
            parts[number] = f"[{page[1]}]({page[1]})"
        else:
            parts[number] = f"`{part.strip('`')}`"
    return re.sub(r"(?<!\S)docs/([\w-]+\.md)", r"[\1](\1)", "".join(parts))
