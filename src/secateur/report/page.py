"""The report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from html import escape
from pathlib import Path

from secateur.report.report import Report
from secateur.report.style import STYLE
from secateur.report.table import columns
from secateur.report.wording import (
    UNKNOWN,
    amount,
    file_size,
    headline,
    percent,
    share,
    speed_up,
    three_digits,
    told,
)
from secateur.run import write_atomically

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">"""


def page(report: Report) -> str:
    """The whole report as one self-contained HTML document."""
    return "\n".join(
        (
            HEAD,
            f"<title>{escape(report.title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>\n<body>\n<main>",
            _opening(report),
            _comparison(report),
            *_figures(report),
            _numbers(report),
            _left_alone(report),
            _making(report),
            "</main>\n</body>\n</html>\n",
        )
    )


def write(report: Report, folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` into a folder, whole or not at all, and say where it is."""
    place = Path(folder) / "report.html"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, page(report).encode())
    return place


def _opening(report: Report) -> str:
    dense, row = report.dense, report.delivered
    faster = speed_up(row, dense)
    tiles = [
        (
            "MACs",
            share(row.costs.macs, dense.costs.macs),
            f"{amount(dense.costs.macs)} → {amount(row.costs.macs)}",
        ),
        (
            "parameters",
            share(row.costs.params, dense.costs.params),
            f"{amount(dense.costs.params)} → {amount(row.costs.params)}",
        ),
        ("accuracy", percent(row.accuracy, 2), f"from {percent(dense.before, 2)}"),
    ]
    if row.file_bytes is not None and dense.file_bytes:
        sizes = f"{file_size(dense.file_bytes)} → {file_size(row.file_bytes)}"
        tiles.append(("file", share(row.file_bytes, dense.file_bytes), sizes))
    if faster is not None and row.latency_ms and dense.latency_ms:
        times = f"{three_digits(dense.latency_ms)} → {three_digits(row.latency_ms)} ms"
        tiles.append(("speed", f"{faster:.2f}×", times))
    items = "\n".join(
        f'<li><span class="what">{what}</span> <strong>{value}</strong> <span class="from">{change}</span></li>'
        for what, value, change in tiles
    )
    lead = escape(headline(report)).replace(" %", "&nbsp;%").replace(" → ", "&nbsp;→ ")
    return (
        f"<header>\n<h1>{escape(report.title)}</h1>\n"
        f'<p class="lead">{lead}</p>\n<ul class="tiles">\n{items}\n</ul>\n</header>'
    )


def _comparison(report: Report) -> str:
    shown = columns(report)
    heads = "".join(f'<th scope="col">{escape(c.heading)}<br>{escape(c.under)}</th>' for c in shown)
    lines = []
    for row in report.rows:
        kind = "best" if row is report.best else "dense" if row is report.dense else ""
        cells = "".join(f"<td>{escape(c.cell(row, report.dense) or UNKNOWN)}</td>" for c in shown)
        lines.append(f'<tr class="{kind}"><th scope="row">{escape(row.name)}</th>{cells}</tr>')
    meanings = "; ".join(f"<b>{escape(c.heading)}</b>: {escape(c.meaning)}" for c in shown if c.meaning)
    body = "\n".join(lines)
    sources = "".join(f" {escape(line[0].upper() + line[1:])}." for line in told(report)[len(report.sources) :])
    return (
        "<section>\n<h2>At the same budget</h2>\n"
        f'<div class="wide"><table>\n<thead><tr><th scope="col">network</th>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>\n"
        f'<p class="note">The most accurate pruned network is bold. {meanings}.{sources}</p>\n</section>'
    )


def _figures(report: Report) -> list[str]:
    # Only here: matplotlib takes longer to import than everything else in this package.
    from secateur.report.figures import drawings

    return [
        f'<figure id="{drawing.name}">\n<div class="wide">{_inline(drawing.svg, drawing.caption)}</div>\n'
        f"<figcaption>{escape(drawing.caption)}</figcaption>\n</figure>"
        for drawing in drawings(report)
    ]


def _inline(svg: str, label: str) -> str:
    """An SVG document as part of the page: it takes the page's colours and needs no name spaces."""
    svg = re.sub(r'\sxmlns(?::\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r"\b(fill|stroke): #([0-9a-f]{6})\b", r"\1: var(--c\2, #\2)", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def _numbers(report: Report) -> str:
    """The plan and the layers in numbers, for those who want to look one up."""
    plan = report.delivered.plan
    kept = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{percent(plan.get(key, 1.0))}</td></tr>' for key in report.sites
    )
    work = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{amount(dense)}</td><td>{amount(left)}</td>'
        f"<td>{share(left, dense)}</td>{_blocks(report, name)}</tr>"
        for name, dense, left in report.layers
    )
    bsf = ("BSF",) if report.blocks else ()
    parts = (
        ("The plan in numbers", ("site", "kept"), kept),
        ("The layers in numbers", ("layer", "MACs before", "MACs after", "left", *bsf), work),
    )
    return "\n".join(
        f"<details>\n<summary>{title}</summary>\n"
        f'<div class="wide"><table class="long">\n<thead><tr>{_heads(heads)}</tr></thead>\n'
        f"<tbody>{rows}</tbody>\n</table></div>\n</details>"
        for title, heads, rows in parts
        if rows
    )


def _blocks(report: Report, layer: str) -> str:
    """The cell of a layer's block sparsity, where the network has any."""
    return f"<td>{percent(report.blocks.get(layer, 0.0))}</td>" if report.blocks else ""


def _heads(names: tuple[str, ...]) -> str:
    return "".join(f'<th scope="col">{name}</th>' for name in names)


def _left_alone(report: Report) -> str:
    if not report.left_alone:
        return "<section>\n<h2>Left alone</h2>\n<p>Nothing: every group was searched.</p>\n</section>"
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for key, reason in report.left_alone:
        reasons[reason].append(f"<code>{escape(key)}</code>")
    items = "\n".join(f"<dt>{escape(reason)}</dt>\n<dd>{', '.join(keys)}</dd>" for reason, keys in reasons.items())
    return f"<section>\n<h2>Left alone, and why</h2>\n<dl>\n{items}\n</dl>\n</section>"


def _making(report: Report) -> str:
    when = escape(report.made)
    return (
        "<footer>\n<h2>How this was made</h2>\n"
        f"<pre><code>{escape(report.command)}</code></pre>\n"
        f'<p>On {escape(report.machine)}, <time datetime="{when}">{when.replace("T", " ")}</time>. '
        "Speed was measured on that machine and says little about another.</p>\n</footer>"
    )
