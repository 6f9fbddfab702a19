"""Writes docs/coverage.md: the operators that are followed, the architectures tried, and what is left alone and why.

python scripts/coverage_page.py           writes the page
python scripts/coverage_page.py --check   says whether it is as it would be written
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from secateur.graph.rules import rules

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULT = ROOT / "docs" / "coverage.md", ROOT / "benchmarks" / "results" / "coverage.json"
VERDICTS = {
    "followed": "sites found, and the network cut at all of them at once runs",
    "exact": "it answers as the dense network in which all that went is zero",
    "reaches_half": "half of its MACs can go",
    "round_trip": "a file brings it back",
    "other_batch": "it runs at another batch size",
}


def main() -> None:
    """Write the page, or compare."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit(f"{PAGE.relative_to(ROOT)} is not up to date: python scripts/coverage_page.py")
        return
    PAGE.write_text(text)


def page() -> str:
    """The whole page."""
    return "\n".join(["# What is followed", "", *operators(), *architectures()]) + "\n"


def operators() -> list[str]:
    """By kind, from the table of rules."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    about: dict[str, str] = {}
    for name, function in rules():
        if "::" not in name or not name.startswith(("aten::", "torchvision::")):
            continue
        kind = function.__module__.rpartition(".")[2]
        kinds[kind].append(name.removeprefix("aten::"))
        about[kind] = (sys.modules[function.__module__].__doc__ or "").splitlines()[0]
    found = [
        "## Operators",
        "",
        "Torch's own operators by kind, as `secateur.graph.rules` has them, and all it marks pointwise.",
        "An operator of your own: [extend.md](extend.md#an-operator-of-your-own).",
        "",
    ]
    for kind, names in sorted(kinds.items()):
        found += [f"**{kind}**: {about[kind]}", "", ", ".join(f"`{name}`" for name in sorted(names)), ""]
    return found


def architectures() -> list[str]:
    """From the benchmark's result, as far as there is one."""
    if not RESULT.exists():
        return []
    rows = [row for row in json.loads(RESULT.read_text())["rows"] if row["contestant"] == "secateur"]
    found = [
        "## Architectures",
        "",
        "Random weights, from each library's own constructors (`benchmarks/coverage.py`): of all networks, how many. "
        + "; ".join(f"*{name}*: {what}" for name, what in VERDICTS.items())
        + ".",
        "",
        "| library | networks | " + " | ".join(VERDICTS) + " |",
        "|---|" + "---|" * (len(VERDICTS) + 1),
    ]
    for library in dict.fromkeys(row["library"] for row in rows):
        own = [row for row in rows if row["library"] == library]
        counts = [str(sum(row.get(name) is True for row in own)) for name in VERDICTS]
        found.append(f"| {library} | {len(own)} | " + " | ".join(counts) + " |")
    found += [
        "",
        "*Exact* is judged by zeroing weights; meanwhile norms act on each channel alone, since what they do else",
        "depends on how many there are. Detectors that were not trained find other boxes once they are cut: their",
        "answers have other shapes, and are compared with the zeroed network's.",
    ]
    return [*found, "", *exceptions(rows)]


def exceptions(rows: list[dict[str, Any]]) -> list[str]:
    """Every network of which not all is true."""
    found = ["What is not true of all:", ""]
    for row in rows:
        failed = [name for name in VERDICTS if row.get(name) is False]
        if row["crash"] or row["refusal"]:
            found.append(f"- {row['library']} {row['network']}: {(row['crash'] or row['refusal'])[:200]}")
        elif failed:
            share = f", {100 * row['share_macs']:.0f} % of its MACs lie in layers that can be cut"
            found.append(f"- {row['library']} {row['network']}: not {', '.join(failed)}{share}")
    return found


if __name__ == "__main__":
    main()
