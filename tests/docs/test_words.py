"""The pages are written in short sentences and lines; `python docs/words.py -v` says which ones are long."""

import statistics

import pytest
import words

PAGES = words.pages()


def test_sentences_are_short():
    lengths = [words.words(sentence) for page in PAGES for sentence in page.sentences]
    assert statistics.median(lengths) <= words.MEDIAN
    assert words.tenth(lengths) <= words.LONG


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short(page):
    assert page.wide == []


@pytest.mark.parametrize(
    ("lines", "sentences"),
    [
        (["# A heading.", "", "One two. Three", "four."], ["One two.", "Three four."]),
        (["- one item", "  goes on", "- another. And more."], ["one item goes on", "another.", "And more."]),
        (["Before:", "", "    code. More code.", "", "After."], ["Before:", "After."]),
        (["Before:", "```", "Code. Code.", "```", "After, e.g. Here."], ["Before:", "After, e.g. Here."]),
        (["| a table. | B. |", "|---|---|", "Says 0.5 MB. 2 MB more."], ["Says 0.5 MB.", "2 MB more."]),
        (["A [link. Here](a.md) and `code. Code`."], ["A link.", "Here and CODE."]),
    ],
)
def test_prose_is_told_from_what_is_none(lines, sentences):
    assert [
        sentence for paragraph in words.paragraphs(lines) for sentence in words.split(paragraph)
    ] == sentences


def test_where_links_lead_is_not_counted():
    assert not list(words.wide(["See [this](" + "x" * 120 + ")."]))
    assert [number for number, _ in words.wide(["short", "x" * 101, "|" + "x" * 120])] == [2]
