"""The refit of the final network: layer by layer, each on what the pruned network itself feeds it.

A refit on the dense network's inputs ignores that the layers before have drifted. Here every layer is fitted,
in order of execution, so that it reproduces the dense network's output from the pruned network's input; where
a residual sum follows, so that the sum comes out right, and the drift of the shortcut is made up for too.
One forward pass of each network over the calibration inputs does it: weights change while the pass goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from secateur.graph import Layer, ModelGraph, OperationLog
from secateur.prune.calibration import Calibration, input_rows, output_rows, sample_positions, with_constant
from secateur.prune.cut import Kept, places
from secateur.prune.gram import LARGEST, features
from secateur.prune.refit import has_offset, shift

RIDGE = 1e-3
"""Pull towards the weights as they are, as a fraction of the mean energy of a layer's inputs."""

Rows = dict[str, Tensor]


def refit_in_sequence(
    pruned: nn.Module, dense: nn.Module, graph: ModelGraph, kept: Kept, calibration: Calibration
) -> None:
    """Refit every layer of `pruned` in place. Both networks are in eval mode and stay so."""
    targets, shortcuts = _dense_rows(dense, graph, kept, calibration)
    log = OperationLog(wanted={layer.join.other for layer in graph.layers if layer.join})
    positions = {layer.name: sample_positions(layer, len(calibration)) for layer in _solvable(graph)}

    def fit(layer: Layer, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        with log.paused():
            where, target = positions[layer.name], targets.pop(layer.name, None)
            if target is None:
                return  # a layer that runs twice in one pass was fitted the first time
            if layer.join and layer.join.other in log.values:
                drift = shortcuts[layer.name] - _rows(layer, log.values.pop(layer.join.other), where)
                target = target + _before_norm(pruned, layer, drift)
            _fit(pruned, layer, with_constant(input_rows(module, args[0].float(), where)), target)

    handles = [
        pruned.get_submodule(layer.name).register_forward_pre_hook(partial(fit, layer))
        for layer in _solvable(graph)
    ]
    try:
        with torch.no_grad(), log:
            pruned(*calibration.inputs)
    finally:
        for handle in handles:
            handle.remove()


def _solvable(graph: ModelGraph) -> list[Layer]:
    return [layer for layer in graph.layers if features(layer) <= LARGEST]


def _rows(layer: Layer, y: Tensor, positions: Tensor) -> Tensor:
    return output_rows(y.float(), positions, layer.kind != "linear")


def _dense_rows(dense: nn.Module, graph: ModelGraph, kept: Kept, calibration: Calibration) -> tuple[Rows, Rows]:
    """Dense outputs of every layer, and dense shortcuts beside it, at its sampled positions and kept channels."""
    layers = _solvable(graph)
    positions = {layer.name: sample_positions(layer, len(calibration)) for layer in layers}
    outward = {name: torch.from_numpy(at) for (name, side), at in places(graph, kept).items() if side == "out"}
    targets: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    shortcuts: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    start = 0

    def take(rows: dict[str, list[Tensor]], layer: Layer, y: Tensor) -> None:
        found = _rows(layer, y, positions[layer.name][start : start + len(y)])
        index = outward.get(layer.name)
        rows[layer.name].append(found if index is None else found[:, index.to(found.device)])

    def look(layer: Layer, module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        with log.paused():
            take(targets, layer, y)

    handles = [dense.get_submodule(layer.name).register_forward_hook(partial(look, layer)) for layer in layers]
    try:
        for batch in calibration.batches(100):
            log = OperationLog(wanted={layer.join.other for layer in layers if layer.join})
            with torch.no_grad(), log:
                dense(*batch)
            for layer in layers:
                if layer.join and layer.join.other in log.values:
                    take(shortcuts, layer, log.values[layer.join.other])
            start += len(batch[0])
    finally:
        for handle in handles:
            handle.remove()
    return _joined(targets), _joined(shortcuts)


def _joined(rows: Mapping[str, list[Tensor]]) -> Rows:
    return {name: torch.cat(pieces) for name, pieces in rows.items() if pieces}


def _before_norm(model: nn.Module, layer: Layer, drift: Tensor) -> Tensor:
    """What has to change before the batch norm for its output to change by `drift` [rows, out]."""
    if layer.norm is None:
        return drift
    norm = model.get_submodule(layer.norm)
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    if norm.running_var is None:
        return torch.zeros_like(drift)
    spread = (norm.running_var + norm.eps).sqrt()
    gain = norm.weight if norm.weight is not None else torch.ones_like(spread)
    reachable = gain.abs() > 1e-3 * gain.abs().max()
    return drift * torch.where(reachable, spread / torch.where(reachable, gain, 1.0), 0.0)


def _fit(model: nn.Module, layer: Layer, rows: Tensor, target: Tensor) -> None:
    """Move weights (and offset) to the least-squares solution on `rows` [rows, groups, D + 1]."""
    module = model.get_submodule(layer.name)
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))
    weight = module.weight.data.flatten(1).unflatten(0, (rows.shape[1], -1))
    bias = module.bias.data if module.bias is not None else weight.new_zeros(weight.shape[:2]).flatten()
    offset = has_offset(model, layer)
    seen = rows if offset else rows[..., :-1]
    x = seen.transpose(0, 1)
    y = x[..., : weight.shape[2]] @ weight.transpose(1, 2) + bias.unflatten(0, weight.shape[:2])[:, None]
    missing = target.unflatten(1, weight.shape[:2]).transpose(0, 1) - y
    square = (x.transpose(1, 2) @ x).double()
    scale = square.diagonal(dim1=1, dim2=2)[:, : weight.shape[2]].mean(1)
    square.diagonal(dim1=1, dim2=2).add_(RIDGE * scale[:, None] + 1e-9)
    change = torch.linalg.solve(square, (x.transpose(1, 2) @ missing).double()).to(weight.dtype)
    moved = weight + change[:, : weight.shape[2]].transpose(1, 2)
    module.weight.data.copy_(moved.flatten(0, 1).view_as(module.weight))
    if offset:
        shift(model, layer, change[:, -1].flatten())
