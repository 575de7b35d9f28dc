"""Writes docs/cli.md from the commands' parsers, docs/api.md from docstrings: `python docs/make_pages.py`.

The text depends on the package alone: not on the width of a terminal, nor on how a version of Python prints a
parser or a signature.
"""

import argparse
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docstrings import COLUMNS, prose, slug

import pydelta

HERE = Path(__file__).parent

# The public surface, in the order of the page: a heading, what it is about, and names below pydelta.
SURFACE: list[tuple[str, str, list[str]]] = [
    (
        "Sums and transforms",
        "Ops on tensors: every one takes `backend=`, and most take `out=`.",
        [
            "key",
            "Key",
            "superpose",
            "retrieve",
            "sign_flip",
            "hadamard",
            "rotate",
            "random",
            "compat",
        ],
    ),
    (
        "Codes",
        "A tensor in 1, 2, 4 or 8 bits an element.",
        ["quantize", "dequantize", "Quantized", "superposed_linear"],
    ),
    (
        "Masks and merging",
        "A mask says which elements of a delta stay; a merge sums what stays.",
        [
            *["merge", "prune", "merge_into", "mask_rescale", "magnitude_threshold"],
            *[
                "RandomMask",
                "MagnitudeMask",
                "BandMask",
                "WandaMask",
                "DellaMask",
                "MagnitudeThreshold",
                "masks",
            ],
        ],
    ),
    (
        "Stores",
        "Many fine-tunes of one base in one folder, and all of them on one live module.",
        ["Superposition", "superposition.serving.Bank", "hf"],
    ),
    ("Delta files", "What one fine-tune changed in its base, in one file.", ["deltafile"]),
    (
        "Checkpoints",
        "Safetensors files and Hugging Face folders.",
        ["load_checkpoint", "save_checkpoint", "checkpoint"],
    ),
    ("Calibration", "What layers see of data, and what is computed from it.", ["calibration", "darex"]),
    (
        "Training",
        "Optimizers whose deltas merge well, and the kernels below them.",
        ["optim", "sam_perturb_", "sam_restore_", "adamr_step_"],
    ),
    ("VeRA", "Adapters of two vectors a layer.", ["vera", "vera_linear", "vera_matrix", "vera_merge"]),
    ("Backends", "Which kernels are there, and which are taken.", ["backends", "use_backend", "__version__"]),
]


def cli() -> str:
    """The page of the command line."""
    module = importlib.import_module("pydelta.cli.main")
    top: argparse.ArgumentParser = module.parser()
    status = (module.__doc__ or "").split("\n\n")[1]
    codes = [line.strip() for line in re.split(r"(?<=\.) (?=\d+:)", " ".join(status.split()))]
    lines = [
        "# The command line",
        "",
        f"{top.description} `pydelta COMMAND --help` prints what stands here, `pydelta --version`",
        "the version.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(
            f"| [`{name}`](#{slug(f'pydelta {name}')}) | {_cell(about)}. |"
            for name, about, _ in _commands(top)
        ),
        "",
        "The exit status says how a command ended:",
        "",
        *(f"- `{code.partition(':')[0]}`:{code.partition(':')[2]}" for code in codes),
    ]
    for name, about, parser in _commands(top):
        lines += _command(f"pydelta {name}", about, parser, 2)
    return _page("pydelta COMMAND --help", lines)


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """(name, one line, parser) of every command below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            about = {choice.dest: choice.help or "" for choice in action._choices_actions}
            yield from ((name, about[name], below) for name, below in action.choices.items())


def _command(name: str, about: str, parser: argparse.ArgumentParser, depth: int) -> Iterator[str]:
    below = list(_commands(parser))
    yield from ("", f"{'#' * depth} {name}", "", parser.description or f"{about[:1].upper()}{about[1:]}.", "")
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    shown = [action for action in actions if not isinstance(action, argparse._SubParsersAction)]
    needed = [_called(action) for action in shown if not action.option_strings or action.required]
    more = ["[options]"] if len(needed) < len(shown) else []
    usage = " ".join([name, *needed, *(["ACTION ..."] if below else more)])
    yield from (
        "```text",
        *textwrap.wrap(usage, COLUMNS, subsequent_indent="    ", break_on_hyphens=False),
        "```",
    )
    if shown:
        yield from ("", "| argument | meaning |", "|---|---|")
    for action in shown:
        names = ", ".join(f"`{text}`" for text in [_spelled(action)])
        yield f"| {names} | {_cell(_help(action, parser))} |"
    for inner, what, command in below:
        yield from _command(f"{name} {inner}", what, command, depth + 1)


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """The help of an argument with its default, and the choices where there are some."""
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    if action.choices:
        text = f"one of {', '.join(f'`{choice}`' for choice in action.choices)}; {text}".removesuffix("; ")
    return text + (" (needed)" if action.required and action.option_strings else "")


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))


def _spelled(action: argparse.Action) -> str:
    return " ".join(filter(None, [", ".join(action.option_strings), _value(action)]))


def _called(action: argparse.Action) -> str:
    """How an argument stands in the usage line."""
    text = " ".join(filter(None, [*action.option_strings[:1], _value(action)]))
    many = isinstance(action, argparse._AppendAction) or action.nargs in ("*", "+")
    text = f"{text} ..." if many else text
    return f"[{text}]" if action.nargs in ("?", "*") else text


def api() -> str:
    """The page of the Python interface."""
    public = members()
    anchors = {name: slug(_heading(name, value)) for name, _, value in public}
    for kind in (value for _, _, value in public if inspect.isclass(value)):
        anchors |= {f"{kind.__name__}.{name}": slug(f"{kind.__name__}.{name}") for name, _ in methods(kind)}
    lines = [
        "# The Python interface",
        "",
        "Everything that is public, from its docstring. Names load on first use, so `import pydelta`",
        "takes milliseconds.",
        "",
        "| part | names |",
        "|---|---|",
    ]
    for title, _about, _names in SURFACE:
        found = [
            f"[`{name.removeprefix('pydelta.')}`](#{anchors[name]})"
            for name, part, _ in public
            if part == title
        ]
        lines.append(f"| [{title}](#{slug(title)}) | {', '.join(found)} |")
    for title, about, _names in SURFACE:
        lines += ["", f"## {title}", "", about]
        for name, part, value in public:
            if part == title:
                lines += _member(name, value, anchors)
    return _page("the docstrings", lines)


def members() -> list[tuple[str, str, Any]]:
    """(full name, part of the page, value) of every public name; a module stands with the names in it."""
    found = []
    for title, _about, names in SURFACE:
        for name in names:
            value = _look_up(name)
            found.append((f"pydelta.{name}", title, value))
            if inspect.ismodule(value):
                below = [inner for inner in _names(value) if inner not in pydelta.__all__]
                found += [
                    (f"pydelta.{name}.{inner}", title, getattr(value, inner)) for inner in sorted(below)
                ]
    return found


def _names(module: Any) -> list[str]:
    """What a module gives: its `__all__`, or what it defines."""
    homes = (module.__name__, module.__name__.replace("pydelta.", "pydelta.core.", 1))
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") in homes]
    return list(getattr(module, "__all__", [name for name in own if not name.startswith("_")]))


def _look_up(name: str) -> Any:
    home, _, last = f"pydelta.{name}".rpartition(".")
    module = importlib.import_module(home)
    return getattr(module, last) if hasattr(module, last) else importlib.import_module(f"{home}.{last}")


def methods(kind: type) -> list[tuple[str, Any]]:
    """The public methods and properties of a class that pydelta wrote, its own before inherited ones."""
    found: dict[str, Any] = {}
    for above in kind.__mro__:
        if above.__module__.startswith("pydelta."):
            found |= {name: value for name, value in vars(above).items() if name not in found}
    return [
        (name, value)
        for name, value in found.items()
        if not name.startswith("_") and value.__doc__ and _own(value)
    ]


def _own(value: Any) -> bool:
    return isinstance(value, property | classmethod | staticmethod) or inspect.isfunction(value)


def _heading(name: str, value: Any) -> str:
    """A heading that says what a name is: `Key` and `key` must not share an anchor."""
    kind = "class " if inspect.isclass(value) else "module " if inspect.ismodule(value) else ""
    return f"{kind}`{name}`"


def _member(name: str, value: Any, anchors: dict[str, str]) -> Iterator[str]:
    short = name.removeprefix("pydelta.")
    yield from ("", f"### {_heading(name, value)}", "")
    if isinstance(value, str):
        yield "The version of the package, a string."
        return
    if inspect.ismodule(value):
        yield from prose(value.__doc__, anchors)
        return
    yield from _signature(short, value)
    if inspect.isclass(value):
        anchors = anchors | {name: anchors[f"{value.__name__}.{name}"] for name, _ in methods(value)}
    yield from prose(value.__doc__, anchors)
    for method, found in methods(value) if inspect.isclass(value) else ():
        label = f"{value.__name__}.{method}"
        yield from ("", f"#### `{label}`", "")
        if isinstance(found, property):
            yield "*A property.*"
            yield ""
        else:
            yield from _signature(
                label, getattr(value, method), drop=not isinstance(found, staticmethod | classmethod)
            )
        yield from prose(found.__doc__, anchors)


def _signature(name: str, value: Any, drop: bool = False) -> Iterator[str]:
    """A call in a block of code: on one line if it fits, else an argument a line."""
    signature = inspect.signature(value)
    given = list(signature.parameters.values())[1 if drop else 0 :]
    words, starred = [], False
    for one in given:
        if one.kind is one.KEYWORD_ONLY and not starred:
            words.append("*")
        starred = starred or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        words.append(_parameter(one))
    returns = signature.return_annotation
    arrow = "" if returns is signature.empty or inspect.isclass(value) else f" -> {_annotation(returns)}"
    whole = f"{name}({', '.join(words)}){arrow}"
    lines = [whole] if len(whole) <= 88 else [f"{name}(", *(f"    {word}," for word in words), f"){arrow}"]
    yield from ("```python", *lines, "```", "")


def _parameter(one: inspect.Parameter) -> str:
    stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
    kind = "" if one.annotation is one.empty else f": {_annotation(one.annotation)}"
    default = "" if one.default is one.empty else f" = {one.default!r}" if kind else f"={one.default!r}"
    return f"{stars}{one.name}{kind}{default}"


def _annotation(kind: Any) -> str:
    return kind.strip("'\"") if isinstance(kind, str) else inspect.formatannotation(kind)


def _cell(text: str) -> str:
    return re.sub(r"([*<|])", r"\\\1", " ".join(text.split()))


def _page(source: str, lines: list[str]) -> str:
    note = f"<!-- Made from {source} by `python docs/make_pages.py`: change it there. -->"
    text = "\n".join([note, "", *lines])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


PAGES = {"cli.md": cli, "api.md": api}

if __name__ == "__main__":
    for page, made in PAGES.items():
        (HERE / page).write_text(made(), encoding="utf-8")
