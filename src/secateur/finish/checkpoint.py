"""Save and load a pruned network without pickle: safetensors, with the new shapes as JSON beside the tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from secateur.errors import CheckpointError
from secateur.finish.files import load_weights, read_tensors
from secateur.finish.sizes import said_of, set_widths, state_again
from secateur.graph import PICKED, copied, forgetful
from secateur.prune import Picking, pick, set_tensor
from secateur.run import write_atomically
from secateur.sparse import Pattern, dense_again, impose, masked_layers, pack, pattern, unpack

FORMAT = "secateur-2"
READ = ("secateur-1", FORMAT)
SAID = ("widths", "shared", "sparse", "sizes", "sources", "opened", "bypassed", "hidden")
"""The words of a file beside its tensors, each with its value as JSON; of some, files of before had none."""


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network's tensors, and the widths of its layers, to one safetensors file; sparse weights are packed.

    Block-sparse layers are written as the dense ones that they were made from. Raises CheckpointError where the file
    cannot be written, or weights that a mask leaves out are no longer zero.
    """
    model = dense_again(model)
    state, seen = model.state_dict(), dict[Memory, str]()
    shared = {name: seen[_memory(t)] for name, t in state.items() if t.numel() and _known(seen, name, t)}
    tensors = {name: _own(tensor) for name, tensor in state.items() if name not in shared}
    hidden = _hidden(model)
    tensors |= {name: _own(tensor) for name, tensor in hidden.items()}
    sparse = {name: {"pattern": str(kind), "shape": [*mask.shape]} for name, _, mask, kind in masked_layers(model)}
    for name, _, mask, kind in masked_layers(model):
        if (tensors[f"{name}.weight"][~mask.cpu()] != 0).any():
            raise CheckpointError(
                f"{name} has weights other than zero where its mask leaves them out: train by sc.finetune, or call "
                "secateur.sparse.hold(model) after each step of a training of your own"
            )
        if packed := pack(tensors[f"{name}.weight"], mask.cpu(), kind):
            del tensors[f"{name}.weight"]
            tensors |= {f"{name}.weight.{part}": tensor.contiguous() for part, tensor in packed.items()}
    said = said_of(model) | {"shared": shared, "sparse": sparse, "hidden": sorted(hidden)}
    note = {key: json.dumps(value) for key, value in said.items()}
    try:
        write_atomically(Path(path), to_bytes(tensors, metadata={"format": FORMAT} | note))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; name another place") from error


Memory = tuple[int, torch.dtype, torch.Size, tuple[int, ...]]


def _memory(tensor: Tensor) -> Memory:
    """Where a tensor lies, and which part of what lies there it is."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _own(tensor: Tensor) -> Tensor:
    """Its values in memory of its own: tensors that overlap are each written whole."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _known(seen: dict[Memory, str], name: str, tensor: Tensor) -> bool:
    """Whether the same memory was met under an earlier name (tied weights are stored once)."""
    return seen.setdefault(_memory(tensor), name) != name


def _hidden(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that a state dict leaves out, such as tables of rotations: a pruned network has others."""
    known = {*model.state_dict(keep_vars=True), *(f"{name}.weight_mask" for name, *_ in masked_layers(model))}
    return {name: x for name, x in model.named_buffers() if name not in known and x.dim()}


def load(path: str | os.PathLike[str], dense: nn.Module) -> nn.Module:
    """A copy of `dense`, cut to the shapes in the file and filled with its tensors.

    Args:
        path: what `save` wrote. Pickled checkpoints are refused: reading one can run any code.
        dense: a fresh network of the architecture that was pruned; it is not touched.

    Raises:
        CheckpointError: the file is missing, damaged, or belongs to another architecture.
    """
    tensors, note = read_tensors(path)
    if note.get("format") not in READ:
        raise CheckpointError(f"{path} was not written by secateur.save; load it into the dense model instead")
    model = copied(dense)
    with _in_eval_mode(model):  # a weight under a spectral norm is another each time that it is read in training
        _fill_in(model, dense, path, tensors, note)
    return model


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """For a while; what a forward keeps from one pass to the next (tables of biases) is gone afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    forgetful(model)
    yield
    for module, training in modes:
        module.training = training


def _fill_in(
    model: nn.Module,
    dense: nn.Module,
    path: str | os.PathLike[str],
    tensors: dict[str, Tensor],
    note: Mapping[str, str],
) -> None:
    """Give a dense network the shapes and the tensors of a file."""
    try:
        said = {key: json.loads(value) for key, value in note.items() if key in SAID}
        shared, widths = said["shared"], said["widths"]
        tensors |= {name: tensors[first] for name, first in shared.items()}
        masks = _unpack(model, tensors, said.get("sparse", {}))
        state_again(model, said)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged, or of another architecture ({error}); make it again") from error
    _restore_picks(model, tensors, path)
    hidden = {name for name in said.get("hidden", []) if name in dict(model.named_buffers())}
    expected = model.state_dict().keys() | hidden
    missing, unknown = sorted(expected - tensors.keys()), sorted(tensors.keys() - expected)
    if missing or unknown:
        raise CheckpointError(
            f"{path} does not fit {type(dense).__name__}: "
            f"missing {missing[:3]}, unknown {unknown[:3]}; give the architecture that was pruned"
        )
    for name, tensor in tensors.items():
        _fill(model, name, tensor, path)
    for name, first in shared.items():
        _tie(model, name, first)
    set_widths(model, widths)
    for name, (mask, kind) in masks.items():
        layer = model.get_submodule(name)
        impose(layer, mask.to(layer.get_parameter("weight").device), kind)


def _unpack(
    model: nn.Module, tensors: dict[str, Tensor], sparse: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[Tensor, Pattern]]:
    """Replace the parts of sparse weights by the whole weights; what each layer masks, and its pattern.

    Raises ValueError, and what a malformed note may lead to.
    """
    masks = {}
    for name, said in sparse.items():
        prefix, kind = f"{name}.weight.", pattern(said["pattern"])
        whole, shape = model.get_submodule(name).get_parameter("weight").shape, said["shape"]
        if len(shape) != len(whole) or not all(0 < new <= was for new, was in zip(shape, whole, strict=True)):
            raise ValueError(f"the weight of {name} is {shape}, which is no part of {list(whole)}")
        parts = {key.removeprefix(prefix): tensors.pop(key) for key in [*tensors] if key.startswith(prefix)}
        if parts:
            tensors[f"{name}.weight"], mask = unpack(parts, shape, kind)
        else:
            mask = tensors[f"{name}.weight"] != 0
        masks[name] = mask, kind
    return masks


def _restore_picks(model: nn.Module, tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Convolutions that picked their input channels do so again."""
    for name, channels in tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = dict(model.named_modules()).get(owner)
        if leaf != PICKED or not isinstance(module, (nn.Conv1d, nn.Conv2d)):
            continue
        wide = module.picked if isinstance(module, Picking) else torch.arange(module.in_channels)
        if channels.dim() != 1 or channels.dtype != torch.int64 or not torch.isin(channels, wide.cpu()).all():
            raise CheckpointError(f"{path}: {name} names channels that {owner} does not read; give its architecture")
        pick(module, channels.to(module.weight.device))


def _fill(model: nn.Module, name: str, tensor: Tensor, path: str | os.PathLike[str]) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    old = getattr(module, leaf)
    fits = old.dim() == tensor.dim() and all(new <= was for new, was in zip(tensor.shape, old.shape, strict=True))
    if not fits or old.dtype != tensor.dtype:
        raise CheckpointError(
            f"{path}: {name} is {tuple(tensor.shape)} {tensor.dtype}, which cannot be cut from "
            f"{tuple(old.shape)} {old.dtype}; give the architecture that was pruned"
        )
    set_tensor(module, leaf, tensor.to(old.device))


def _tie(model: nn.Module, name: str, first: str) -> None:
    """Make a parameter be another one, not only equal to it: training moves both."""
    (owner, _, leaf), (other, _, its) = name.rpartition("."), first.rpartition(".")
    parameters = model.get_submodule(owner)._parameters
    if leaf in parameters and (parameter := model.get_submodule(other)._parameters.get(its)) is not None:
        parameters[leaf] = parameter


def trained(path: str | os.PathLike[str], fresh: nn.Module) -> nn.Module:
    """The network that a file holds, dense or already pruned: what `save` wrote, or else as `load_weights` reads it.

    `fresh` is an untrained network of the dense architecture. Raises CheckpointError.
    """
    if Path(path).suffix == ".safetensors" and read_tensors(path)[1].get("format") in READ:
        return load(path, fresh)
    load_weights(fresh, path)
    return fresh
