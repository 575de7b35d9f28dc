"""How long the pages' sentences are: `python docs/words.py` prints a line a page.

With -v it prints each long sentence and line too. Prose is what is left of a page without code, tables,
headings and comments; a list's item is a paragraph of its own. Pages that `docs/make_pages.py` makes are not
read. Inline code is one word, and a link is its text.
"""

import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEDIAN = 15  # words in the middle sentence, at most
LONG = 28  # words that nine sentences in ten stay within
COLUMNS = 100
_MADE = ("docs/cli.md", "docs/api.md")
_BESIDE = ("README.md", "CONTRIBUTING.md", "RELEASE.md", "SECURITY.md")

_FENCE = re.compile(r"^\s*(```|~~~)")
_ITEM = re.compile(r"^\s*([-*+]|\d+\.)\s+")
_APART = re.compile(
    r"^\s*(#|\||!\[|<|!!!|\?\?\?|---|===|\[[^\]]+\]:)"
)  # no prose: headings, tables, pictures, HTML
_ENDS = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!cf\.)(?<!vs\.)[)\"']?\s+(?=[^a-z\s])")
_TARGET = re.compile(r"\]\([^)\s]*\)|<?https?://\S+")


@dataclass(frozen=True)
class Page:
    """One page's sentences, and its lines over the limit with their numbers."""

    name: str
    sentences: list[str]
    wide: list[tuple[int, str]]


def pages(root: Path = ROOT) -> list[Page]:
    """README and its neighbours, then every page under docs that a person wrote."""
    beside = [root / name for name in _BESIDE if (root / name).exists()]
    below = sorted(
        path for path in (root / "docs").rglob("*.md") if path.relative_to(root).as_posix() not in _MADE
    )
    return [read(path, path.relative_to(root).as_posix()) for path in beside + below]


def read(path: Path, name: str) -> Page:
    """A page taken apart."""
    lines = path.read_text(encoding="utf-8").splitlines()
    sentences = [sentence for paragraph in paragraphs(lines) for sentence in split(paragraph)]
    return Page(name, sentences, list(wide(lines)))


def paragraphs(lines: list[str]) -> Iterator[str]:
    """The paragraphs and list items of a page, each on one line."""
    held: list[str] = []
    fenced = listed = False
    for line in [*lines, ""]:
        fence, item = bool(_FENCE.match(line)), bool(_ITEM.match(line))
        code = fenced or fence or (line.startswith("    ") and not held and not listed)
        if fence:
            fenced = not fenced
        if held and (code or item or not line.strip() or _APART.match(line)):
            yield " ".join(held)
            held = []
        if code or not line.strip() or _APART.match(line):
            listed = listed and (code or not line.strip())
            continue
        listed = item or (listed and line.startswith(" "))
        held.append(_ITEM.sub("", line).strip())


def split(paragraph: str) -> list[str]:
    """A paragraph's sentences: they end in a full stop before what is no small letter."""
    plain = re.sub(r"`[^`]*`", "CODE", paragraph)
    plain = re.sub(r"!?\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", plain)
    plain = re.sub(r"[*_]{1,2}(\S(?:[^*_]*\S)?)[*_]{1,2}", r"\1", plain)
    return [sentence for sentence in _ENDS.split(plain) if words(sentence)]


def words(sentence: str) -> int:
    """The words of a sentence: what stands between spaces and has a letter or a digit."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def wide(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Lines over the limit outside tables, not counting where their links lead."""
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("|") and len(_TARGET.sub("", line)) > COLUMNS:
            yield number, line


def tenth(lengths: list[int]) -> int:
    """The length that nine in ten do not exceed."""
    return sorted(lengths)[max(-(-len(lengths) * 9 // 10) - 1, 0)]


def main(verbose: bool) -> None:
    """Print the statistics; with -v each sentence over the limit."""
    found = pages()
    print(f"{'page':<36} sentences  median  90 % within  longest  wide lines")
    everything = Page(
        "all of them", [s for page in found for s in page.sentences], [w for p in found for w in p.wide]
    )
    for page in [*found, everything]:
        lengths = [words(sentence) for sentence in page.sentences] or [0]
        print(
            f"{page.name:<36} {len(page.sentences):9}  {statistics.median(lengths):6.1f}  "
            f"{tenth(lengths):11}  {max(lengths):7}  {len(page.wide):10}"
        )
    for page in found if verbose else []:
        for sentence in page.sentences:
            if words(sentence) > LONG:
                print(f"\n{page.name}: {words(sentence)} words: {sentence}")
        for number, line in page.wide:
            print(f"\n{page.name}:{number}: {len(line)} columns: {line}")


if __name__ == "__main__":
    main("-v" in sys.argv[1:])
