"""Checks that the words agree with the code, the files and the numbers. Prints every problem, one a line.

- Every public name, and every public method of a public class, has a docstring.
- Every relative link leads somewhere, and every path and `make` target that a document names exists.
- Every benchmark result has the agreed shape.
- Every figure that a document quotes (`<!-- figure: NAME.json:figure_name -->value<!-- /figure -->`) is the
  measured one, rounded to the digits shown.
"""

import functools
import inspect
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import secateur

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
REQUIRED_DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")

# [text](target), [label]: target, and HTML.
LINK = re.compile(r'\]\(\s*<?([^)\s>]+)|^\[[^\]]+\]:\s*(\S+)|(?:src|href)="([^"]+)"', re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z]+:|#")  # a URL, or a heading of the same page

# Paths and commands are written as code: in a fenced block or between backticks.
FENCED = re.compile(r"^[ ]*```.*?^[ ]*```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`[^`\n]+`")
FOLDERS = r"(?:src|tests|benchmarks|scripts|docs|examples|\.ci)"
PROJECT_PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS}/[\w./*-]*|[A-Z]+\.md\b)")
PLACEHOLDER = re.compile(r"NAME|\*")
MODULE = re.compile(r"[\w/]+\.py\b")
MAKE_TARGET = re.compile(r"\bmake ([a-z][\w-]*)")

FIGURE = re.compile(r"<!-- figure: ([\w.-]+\.json):(\S+) -->(.*?)<!-- /figure -->", re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.(\d+))?")


def undocumented() -> Iterator[str]:
    """Public names of the package, and their public methods, that have no docstring."""
    for name in secateur.__all__:
        if not hasattr(secateur, name):
            yield f"secateur.__all__ lists {name}, which secateur does not have"
            continue
        thing = getattr(secateur, name)
        if inspect.isclass(thing):
            # A dataclass without a docstring is given its signature for one.
            if not thing.__doc__ or thing.__doc__.startswith(f"{thing.__name__}("):
                yield f"secateur.{name} has no docstring"
            for method in public_methods(thing):
                if not inspect.getdoc(getattr(thing, method)):
                    yield f"secateur.{name}.{method} has no docstring"
        elif inspect.isroutine(thing) and not inspect.getdoc(thing):
            yield f"secateur.{name} has no docstring"


def public_methods(cls: type) -> list[str]:
    """The names of the methods and properties that a class itself defines."""
    kinds = (property, functools.cached_property, classmethod, staticmethod)
    return [
        name
        for name, member in vars(cls).items()
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, kinds))
    ]


def prose(text: str) -> str:
    """A document without its code, which may show links and comments but does not mean them."""
    return INLINE.sub("", FENCED.sub("", text))


def dead_references(document: Path) -> Iterator[str]:
    """Links, paths and `make` targets in a document that lead nowhere."""
    text = document.read_text(encoding="utf-8")
    code = "\n".join(FENCED.findall(text) + INLINE.findall(FENCED.sub("", text)))
    where = document.relative_to(ROOT)

    for match in LINK.finditer(prose(text)):
        target = match[match.lastindex or 0]
        if not ELSEWHERE.match(target) and not (document.parent / target.split("#")[0]).exists():
            yield f"{where}: the link to {target} leads nowhere"

    for path in sorted(set(PROJECT_PATH.findall(code))):
        path = path.rstrip(".")
        if not PLACEHOLDER.search(path) and not (ROOT / path).exists():
            yield f"{where}: there is no {path}"

    # ARCHITECTURE.md draws the tree of modules, where a name stands below its folder: only its end counts.
    if document.name == "ARCHITECTURE.md":
        modules = [f"/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("[!.]*/**/*.py")]
        for module in sorted(set(MODULE.findall(code))):
            if not PLACEHOLDER.search(module) and not any(path.endswith(f"/{module}") for path in modules):
                yield f"{where}: there is no module {module}"

    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for target in sorted(set(MAKE_TARGET.findall(code)) - targets):
        yield f"{where}: the Makefile has no target {target}"


def malformed_result(path: Path) -> Iterator[str]:
    """What a benchmark result lacks: who measured, when, on what, and a flat table of numbers."""
    where = path.relative_to(ROOT)
    result = json.loads(path.read_text(encoding="utf-8"))
    for key in ("command", "date", "commit", "machine"):
        if not result.get(key):
            yield f"{where}: {key} is missing"
    figures = result.get("figures")
    if not isinstance(figures, dict) or not figures:
        yield f"{where}: figures has to be a table of name: number"
        return
    for name, value in figures.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            yield f"{where}: figure {name} is {value!r}, not a number"


def wrong_figures(document: Path) -> Iterator[str]:
    """Figures quoted in a document that differ from the measured ones."""
    where = document.relative_to(ROOT)
    text = prose(document.read_text(encoding="utf-8"))
    quotes = FIGURE.findall(text)
    if len(quotes) != len(re.findall(r"<!--\s*/?figure\b", text)) / 2:
        yield f"{where}: a figure comment is misspelt or has no end"
    for file, name, shown in quotes:
        path = RESULTS / file
        figures = json.loads(path.read_text(encoding="utf-8")).get("figures", {}) if path.exists() else {}
        if name not in figures:
            yield f"{where}: quotes {file}:{name}, which no benchmark has measured"
        elif not agrees(shown, figures[name]):
            yield f"{where}: quotes {file}:{name} as {shown.strip()}, but it is {figures[name]}"


def agrees(shown: str, measured: float) -> bool:
    """Whether the number in `shown` ("90.8 %", "1,234") is `measured`, rounded to the digits shown."""
    number = NUMBER.search(shown.replace("−", "-"))
    if not number:
        return False
    half_a_digit = 0.5 * 10 ** -len(number[1] or "")
    return abs(float(number[0].replace(",", "")) - measured) <= half_a_digit * (1 + 1e-6)


def problems() -> Iterator[str]:
    """Everything that is wrong, over all documents and results."""
    yield from undocumented()
    for name in REQUIRED_DOCUMENTS:
        if not (ROOT / name).exists():
            yield f"{name} is missing"
    for document in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]:
        yield from dead_references(document)
        yield from wrong_figures(document)
    for result in sorted(RESULTS.glob("*.json")):
        yield from malformed_result(result)


def main() -> int:
    """Prints the problems; the exit code says whether there were any."""
    found = list(problems())
    print("\n".join(found) if found else "Documents, docstrings and figures agree with the project.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
