"""The drawings of the pages as SVG, written by `python docs/drawings/draw.py`. It needs nothing but Python.

The numbers in `store.svg` are real: three small deltas with a pattern each, random signs, their sum, and what
comes back of one of them.
"""

import random
from collections.abc import Sequence
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
STYLE = """
.paper{fill:#ffffff;stroke:#d8dee4}.card{fill:#f6f8fa;stroke:#d0d7de}.well{fill:#eef4ff;stroke:#b6cdf7}
.plain{fill:#ffffff;stroke:#d0d7de}.line{stroke:#8c959f;fill:none;stroke-width:1.6}.tip{fill:#8c959f}
.plus{fill:#d9730d}.minus{fill:#2f6fdb}.sign{fill:#57606a}.mark{fill:#2f6fdb}.off{fill:#d0d7de}
.thread{stroke:#2f6fdb;stroke-width:2;stroke-opacity:.45}.badge{fill:#2f6fdb}.rule{stroke:#d8dee4;fill:none}
text{fill:#1f2328;font:14px system-ui,"Segoe UI",Helvetica,Arial,"DejaVu Sans",sans-serif}
.soft{fill:#59636e;font-size:12.5px}.head{font-size:16px;font-weight:600}.bold{font-weight:600}
.code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.big{font-size:24px;fill:#59636e}.blue{fill:#2f6fdb}.count{font-size:12px;font-weight:700;fill:#ffffff}
@media(prefers-color-scheme:dark){
.paper{fill:#12161c;stroke:#30363d}.card{fill:#1a2028;stroke:#323a44}.well{fill:#14233c;stroke:#2b4a7f}
.plain{fill:#12161c;stroke:#3a434e}.line{stroke:#8b949e}.tip{fill:#8b949e}.plus{fill:#f0a050}.minus{fill:#6aa3ff}
.sign{fill:#aab4bf}.mark,.badge{fill:#6aa3ff}.off{fill:#3a434e}.thread{stroke:#6aa3ff}.rule{stroke:#30363d}.count{fill:#0d1117}
text{fill:#e6edf3}.soft,.big{fill:#9aa5b1}.blue{fill:#8ab6ff}}
"""
Grid = list[list[float]]


class Drawing:
    """An SVG of a size, filled from back to front."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
        ]
        self.box(0.5, 0.5, width - 1, height - 1, "paper", 10)

    def box(
        self, x: float, y: float, width: float, height: float, kind: str = "card", radius: float = 8
    ) -> None:
        self.parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            f'rx="{radius:g}"/>'
        )

    def text(self, x: float, y: float, words: str, kind: str = "", at: str = "start") -> None:
        self.parts.append(
            f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{at}">{escape(words)}</text>'
        )

    def lines(self, x: float, y: float, lines: Sequence[str], kind: str = "soft", at: str = "start") -> None:
        for number, words in enumerate(lines):
            self.text(x, y + 18 * number, words, kind, at)

    def path(self, way: str, kind: str = "line") -> None:
        self.parts.append(f'<path class="{kind}" d="{way}"/>')

    def arrow(self, x: float, y: float, to: float, down: float | None = None) -> None:
        """From (x, y) to the right, or in a curve to (to, down), where it points right."""
        down = y if down is None else down
        half = (x + to - 8) / 2
        bend = f"C{half:g} {y:g} {half:g} {down:g} {to - 8:g} {down:g}" if down != y else f"H{to - 8:g}"
        self.path(f"M{x:g} {y:g}{bend}")
        self.path(f"M{to:g} {down:g}l-9 -4.5v9z", "tip")

    def fall(self, x: float, y: float, to: float) -> None:
        """An arrow down."""
        self.path(f"M{x:g} {y:g}V{to - 8:g}")
        self.path(f"M{x:g} {to:g}l-4.5 -9h9z", "tip")

    def grid(self, x: float, y: float, size: float, values: Grid, loudest: float) -> None:
        """A tensor: orange is plus, blue is minus, and strong is large."""
        cells: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                strength = round(100 * min(abs(value) / loudest, 1))
                cells.setdefault(("plus" if value > 0 else "minus", strength), []).append((i, j))
        self.box(x, y, size, size, "plain", 4)
        for (kind, strength), places in sorted(cells.items()):
            self._cells(x, y, (size - 4) / len(values), places, kind, strength)

    def signs(self, x: float, y: float, size: float, values: Grid) -> None:
        """A key's random signs: a dark cell flips."""
        self.box(x, y, size, size, "plain", 4)
        flips = [(i, j) for i, row in enumerate(values) for j, value in enumerate(row) if value < 0]
        self._cells(x, y, (size - 4) / len(values), flips, "sign", 75)

    def _cells(
        self, x: float, y: float, cell: float, places: list[tuple[int, int]], kind: str, strength: int
    ) -> None:
        side = f"{cell:.4g}"
        way = "".join(
            f"M{x + 2 + j * cell:.5g} {y + 2 + i * cell:.5g}h{side}v{side}h-{side}z" for i, j in places
        )
        self.parts.append(
            f'<path class="{kind}" fill-opacity="{strength / 100:g}" shape-rendering="crispEdges" d="{way}"/>'
        )

    def write(self) -> str:
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def _both(a: Grid, b: Grid, how: str) -> Grid:
    pairs = [list(zip(left, right, strict=True)) for left, right in zip(a, b, strict=True)]
    return [[x * y if how == "*" else x + y for x, y in row] for row in pairs]


def store() -> str:
    """A store: the deltas of many models in one sum, and one of them back; and the files."""
    d = Drawing(960, 620, "A store: one base, one sum of all deltas, and a key a model give every model back")
    draw, n, step = random.Random(4), range(12), 0.15
    base: Grid = [[1.0 if (i // 3 + j // 3) % 2 else -1.0 for j in n] for i in n]
    deltas: list[Grid] = [
        [[step if i % 4 < 2 else -step for _ in n] for i in n],
        [[step if (i + j) % 6 < 3 else -step for j in n] for i in n],
        [[step if j % 6 < 3 else -step for j in n] for _ in n],
    ]
    keys: list[Grid] = [[[draw.choice((-1.0, 1.0)) for _ in n] for _ in n] for _ in deltas]
    flipped = [_both(delta, key, "*") for delta, key in zip(deltas, keys, strict=True)]
    total = _both(_both(flipped[0], flipped[1], "+"), flipped[2], "+")

    d.text(32, 42, "Compress: many deltas become one sum", "head")
    for number, name in enumerate(("math", "code", "law")):
        y = 72 + 104 * number
        d.text(84, y + 38, name, "bold", "end")
        d.text(84, y + 56, "− base", "soft", "end")
        d.grid(98, y, 88, deltas[number], 1.5 * step)
        d.text(208, y + 52, "×", "big", "middle")
        d.signs(230, y, 88, keys[number])
        d.arrow(326, y + 44, 434, 220)
    d.text(142, 392, "deltas", "soft", "middle")
    d.text(274, 392, "signs of each key", "soft", "middle")
    d.grid(442, 158, 124, total, 3 * step)
    d.text(504, 304, "one sum S", "bold", "middle")
    d.text(504, 324, "bytes of one model,", "soft", "middle")
    d.text(504, 342, "or a bit or less each", "soft", "middle")
    d.arrow(574, 220, 642)

    d.box(652, 64, 280, 336)
    d.text(672, 94, "STORE/", "code bold")
    files = [
        ("store.json", "models, keys, digests;", "replaced last"),
        ("superposed-….safetensors", "the sum, or its codes;", "named by its content"),
        ("exact/MODEL.safetensors", "small tensors of each", "model: norms, biases"),
        ("log.jsonl", "a line for each event", ""),
    ]
    for number, (name, *what) in enumerate(files):
        y = 124 + 74 * number
        d.path(f"M680 {y - 26 if number else y - 22}V{y - 5}H692")
        if number + 1 < len(files):
            d.path(f"M680 {y - 5}V{y + 48}")
        d.text(700, y, name, "code blue")
        d.lines(700, y + 19, what)

    d.path("M32 416H928", "rule")
    d.text(32, 450, "Retrieve: the key of code brings code back", "head")
    back = _both(total, keys[1], "*")
    tiles = [
        (98, "S", total, 3 * step),
        (362, "code − base", back, 3 * step),
        (494, "base", base, 1.45),
        (626, "model code", _both(base, back, "+"), 1.45),
    ]
    y = 470
    for x, name, values, loudest in tiles:
        d.grid(x, y, 88, values, loudest)
        d.text(x + 44, y + 108, name, "bold", "middle")
    d.signs(230, y, 88, keys[1])
    d.text(274, y + 108, "key of code", "bold", "middle")
    d.text(406, y + 126, "and noise", "soft", "middle")
    for x, sign in ((208, "×"), (340, "="), (472, "+"), (604, "=")):
        d.text(x, y + 52, sign, "big", "middle")
    d.lines(
        734,
        y + 20,
        [
            "The other two deltas are still",
            "under random signs: noise,",
            "small beside the base and",
            "different in every element.",
        ],
    )
    return d.write()


def walk() -> str:
    """The one walk over memory that every op is a part of."""
    d = Drawing(960, 560, "One walk over memory: load, flip, transform, sum, emit")
    stages = [
        ("load", ["base and models,", "any dtype, strides,", "tile by tile"]),
        ("flip", ["random signs, as", "bits of the key,", "32 in a word"]),
        ("transform", ["Hadamard stages", "in registers, in", "a fixed order"]),
        ("sum", ["weights, masks;", "fp32, in order of", "models' names"]),
        ("emit", ["lambda, + base,", "rounded once,", "written once"]),
    ]
    left, wide, gap = 152, 138, 19
    d.text(32, 42, "One walk over memory", "head")
    d.text(928, 42, "each element is read once and written once", "soft", "end")
    centres = [left + wide / 2 + (wide + gap) * k for k in range(5)]
    d.box(left - 12, 64, centres[2] - left + wide / 2 + 24, 40, "plain")
    d.text(centres[1], 89, "memory:  base · tuned 1 · tuned 2 · … · tuned n", "code", "middle")
    d.box(centres[4] - wide / 2, 64, wide, 40, "plain")
    d.text(centres[4], 89, "memory:  out", "code", "middle")
    d.box(left - 12, 132, 5 * wide + 4 * gap + 24, 134, "well", 12)
    d.lines(32, 186, ["in registers", "and a tile that", "the cache holds"])
    d.fall(centres[0], 108, 142)
    d.path(f"M{centres[4]:g} 142V116")
    d.path(f"M{centres[4]:g} 108l-4.5 9h9z", "tip")
    for number, (name, what) in enumerate(stages):
        x = left + (wide + gap) * number
        d.box(x, 146, wide, 106, "plain")
        d.text(x + wide / 2, 172, name, "bold", "middle")
        d.lines(x + wide / 2, 198, what, "soft", "middle")
        if number < 4:
            d.arrow(x + wide + 2, 199, x + wide + gap - 1)
    ops = [
        ("sign_flip", "11001"),
        ("hadamard", "10101"),
        ("rotate", "11101"),
        ("superpose", "11111"),
        ("retrieve", "11101"),
        ("merge_into", "10011"),
        ("mask_rescale", "10011"),
    ]
    d.text(32, 304, "Which stages an op takes", "head")
    for number, (name, taken) in enumerate(ops):
        y = 334 + 30 * number
        if number % 2 == 0:
            d.box(32, y - 15, 896, 30, "card", 4)
        d.text(44, y + 4.5, name, "code")
        used = [centre for centre, bit in zip(centres, taken, strict=True) if bit == "1"]
        d.path(f"M{used[0]:g} {y}H{used[-1]:g}", "thread")
        for centre, bit in zip(centres, taken, strict=True):
            kind, radius = ("mark", 6.5) if bit == "1" else ("off", 3)
            d.parts.append(f'<circle class="{kind}" cx="{centre:g}" cy="{y}" r="{radius}"/>')
    return d.write()


def retrieve() -> str:
    """What happens between `pydelta retrieve STORE code` and the file."""
    d = Drawing(960, 520, "The trip of one retrieve, from store.json to a finished file")
    d.text(32, 42, "pydelta retrieve STORE code -o OUT", "code bold")
    d.text(928, 42, "memory holds parts of a few MiB, never a whole model", "soft", "end")
    top = [
        (
            "manifest",
            [
                "store.json: every field is checked,",
                "and every file's header against it;",
                "the files stay open: one version",
            ],
        ),
        (
            "base",
            [
                "its bytes are hashed, beside the",
                "arithmetic; stamps of files that",
                "did not change spare the hash",
            ],
        ),
        (
            "key",
            [
                "key(seed, “signs”, “code”, TENSOR):",
                "the signs of a tensor follow from",
                "a number and names alone",
            ],
        ),
    ]
    steps = [
        ("read", ["one part of the sum", "and of the base,", "whole rows, mapped"]),
        ("invert", ["T⁻¹ of the key:", "signs, or Hadamard;", "codes are expanded"]),
        ("add", ["base + λ c / w times", "what came back,", "in fp32"]),
        ("round", ["once, to the base's", "dtype; kept elements", "replace theirs"]),
        ("write", ["at its place in a", "hidden file of full", "size, beside OUT"]),
    ]
    for number, (name, what) in enumerate(top):
        x = 32 + 308 * number
        _step(d, x, 64, 280, 118, number + 1, name, what)
        if number < 2:
            d.arrow(x + 282, 123, x + 306)
    d.fall(788, 184, 220)
    d.box(20, 222, 920, 174, "well", 12)
    d.text(36, 247, "for every tensor, part by part; threads take parts", "bold")
    for number, (name, what) in enumerate(steps):
        x = 36 + 180 * number
        _step(d, x, 262, 164, 118, number + 4, name, what)
        if number < 4:
            d.arrow(x + 165, 321, x + 179)
    d.fall(838, 396, 428)
    _wide_step(
        d,
        508,
        428,
        420,
        68,
        9,
        "publish",
        ["the base's small files, a sync,", "and one renaming: whole, or not at all"],
    )
    d.lines(
        32,
        452,
        [
            "Small tensors come from exact/code.safetensors, bit for bit.",
            "A line in log.jsonl says what was made.",
        ],
    )
    return d.write()


def _badge(d: Drawing, x: float, y: float, number: int) -> None:
    d.parts.append(f'<circle class="badge" cx="{x:g}" cy="{y:g}" r="11"/>')
    d.text(x, y + 4.5, str(number), "count", "middle")


def _step(
    d: Drawing, x: float, y: float, width: float, height: float, number: int, name: str, what: Sequence[str]
) -> None:
    d.box(x, y, width, height, "plain" if number > 3 else "card")
    _badge(d, x + 22, y + 24, number)
    d.text(x + 42, y + 29, name, "bold")
    d.lines(x + 12, y + 58, what)


def _wide_step(
    d: Drawing, x: float, y: float, width: float, height: float, number: int, name: str, what: Sequence[str]
) -> None:
    d.box(x, y, width, height)
    _badge(d, x + 22, y + height / 2, number)
    d.text(x + 42, y + height / 2 + 5, name, "bold")
    d.lines(x + 130, y + height / 2 - 5, what)


DRAWINGS = {"store.svg": store, "walk.svg": walk, "retrieve.svg": retrieve}

if __name__ == "__main__":
    for file, drawing in DRAWINGS.items():
        (HERE / file).write_text(drawing(), encoding="utf-8")
