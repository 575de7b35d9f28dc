"""The site of the pages: built strictly, whole, and without a thing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from paths import ROOT

pytest.importorskip("material", reason="the site's packages are not installed: pip install 'pydelta[docs]'")


class Page(HTMLParser):
    """What a page points to, what it loads, and the anchors in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get("src") or (tag == "link" and given.get("href")):
            self.loads.append(given.get("src") or given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return {path: Page(path.read_text(encoding="utf-8")) for path in out.rglob("*.html")}, out


def test_every_link_within_leads_somewhere(site):
    pages, out = site
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.relative_to(out)}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.relative_to(out)}: {link}"


def test_every_page_is_there(site):
    _, out = site
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (out / re.sub(r"README\.html$", "index.html", name)).exists(), name
    for name in ("index.html", "CONTRIBUTING.html", "SECURITY.html", "RELEASE.html"):
        assert (out / name).exists(), name


def test_nothing_is_loaded_from_elsewhere(site):
    pages, _ = site
    loads = {link for page in pages.values() for link in page.loads}
    assert not [link for link in loads if urlsplit(link).scheme not in ("", "data") or link.startswith("//")]


def test_search_knows_every_command(site):
    _, out = site
    index = (out / "search/search_index.json").read_text(encoding="utf-8")
    for command in ("compress", "retrieve", "verify", "similarity"):
        assert f"cli.html#pydelta-{command}" in index
