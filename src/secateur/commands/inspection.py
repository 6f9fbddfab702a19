"""What `secateur inspect` prints: layers, groups, costs, and what is left alone and why."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from secateur.api import inspect
from secateur.graph import ModelGraph
from secateur.job import Job
from secateur.job.materials import LOOKED_AT, materials
from secateur.job.stages import stages
from secateur.plan import Budget
from secateur.report import wide_console
from secateur.run import accuracy
from secateur.search import SearchSpace


def print_inspection(job: Job) -> None:
    """Trace the job's network and print what a search could do with it. Nothing is trained or searched."""
    stuff = materials(job)
    graph = inspect(stuff.model, stuff.example)
    space = SearchSpace(graph, Budget.of(job.budget.metric, 1.0), job.space, job.settings.prices)
    number = stages(job, space)
    if number == 1:
        space = SearchSpace(graph, job.budget, job.space, job.settings.prices)
    console = wide_console()
    console.print(_layers(graph))
    console.print(_sites(space))
    for metric, price in space.prices.items():
        console.print(f"{metric}: {price.dense:.4g} dense, by {price.model.told_by}")
    images, labels = (part[:LOOKED_AT] for part in stuff.reward)
    console.print(
        f"of the first {len(labels)} training images that score plans, the dense network has "
        f"{round(accuracy(images, labels)(stuff.model) * len(labels))} right (if you expect more: are weights, mean "
        "and std, and the order of the classes those of its training?)"
    )
    least = space.cost({site.key: site.fewest for site in space.sites}) / space.cost.dense
    console.print(
        f"dense: {graph.dense.macs:,} MACs, {graph.dense.params:,} parameters, {graph.dense.bytes:,} bytes\n"
        f"budget: {job.budget}, in {number} step{'s' if number > 1 else ''}; "
        f"the least that one can reach is {least:.1%}; {len(space.sites)} sites are searched"
    )


def _layers(graph: ModelGraph) -> Table:
    table = Table(title="Layers in forward order")
    for heading in ("layer", "kind", "in", "out", "kernel", "output", "MACs", "share"):
        table.add_column(heading, justify="left" if heading in ("layer", "kind") else "right", overflow="fold")
    for layer in graph.layers:
        table.add_row(
            Text(layer.name),
            layer.kind,
            str(layer.in_channels),
            str(layer.out_channels),
            "x".join(map(str, layer.kernel)) or "-",
            "x".join(map(str, layer.out_hw)),
            f"{layer.macs:,}",
            f"{layer.macs / max(graph.dense.macs, 1):.1%}",
        )
    return table


def _sites(space: SearchSpace) -> Table:
    table = Table(title="What is cut together: channel groups, and weights of layers that may be sparse")
    for heading in ("group", "of", "units", "step", "made by", "read by", "a tenth saves", "left alone because"):
        number = heading in ("units", "step", "a tenth saves")
        # Names are needed whole, for the job's patterns.
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    steps = {site.key: str(site.step) for site in space.sites}
    for group in space.graph.groups:
        reason = space.settings.left_alone(group)
        saved = 1 - space.cost({group.key: round(0.9 * group.width)}) / space.cost.dense
        table.add_row(
            Text(group.key),
            group.role,
            str(group.width),
            steps.get(group.key, ""),
            _few(group.producers),
            _few(group.consumers),
            "" if reason else f"{saved:.2%}",
            reason,
        )
    for key, layer in space.graph.sparse.items():
        levels = space.graph.width(key)
        saved = 1 - space.cost({key: round(0.9 * levels)}) / space.cost.dense
        table.add_row(key, "weights", str(levels), "1", layer.name, "", f"{saved:.2%}", "")
    return table


def _few(names: tuple[str, ...]) -> str:
    """The first name, and how many more there are."""
    return "" if not names else names[0] if len(names) == 1 else f"{names[0]} + {len(names) - 1}"
