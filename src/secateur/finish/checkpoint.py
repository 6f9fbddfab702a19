"""Save and load a pruned network without pickle: safetensors, with the new shapes as JSON beside the tensors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, KeysView, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from secateur.errors import CheckpointError
from secateur.graph import PICKED, OpenAttention, copied, forgetful, open_attention, unnested
from secateur.graph.scope import source_of
from secateur.graph.stated import says_size
from secateur.prune import Picking, Restated, layers_of, pick, restate, set_tensor
from secateur.run import write_atomically
from secateur.sparse import Pattern, dense_again, impose, masked_layers, pack, pattern, unpack

FORMAT = "secateur-2"
READ = ("secateur-1", FORMAT)


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
    widths = {name: widths for name, module in model.named_modules() if (widths := _widths(module))}
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
    stated = layers_of(model)
    sources = {name: _digest(model.get_submodule(name)) for name in stated}
    opened = [name for name, module in model.named_modules() if isinstance(module, OpenAttention)]
    said = {
        "widths": widths,
        "shared": shared,
        "sparse": sparse,
        "sizes": stated,
        "sources": sources,
        "opened": opened,
        "hidden": sorted(hidden),
    }
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


def _widths(module: nn.Module) -> dict[str, int | list[int]]:
    """The whole numbers of a module, or tuples of them, that say how long something is."""
    found: dict[str, int | list[int]] = {}
    for name, value in vars(module).items():
        if says_size(name) and isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
        elif says_size(name) and isinstance(value, tuple) and value and all(type(each) is int for each in value):
            found[name] = list(value)
    return found


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
        shared: dict[str, str] = json.loads(note["shared"])
        tensors |= {name: tensors[first] for name, first in shared.items()}
        widths: dict[str, dict[str, int]] = json.loads(note["widths"])
        masks = _unpack(model, tensors, json.loads(note.get("sparse", "{}")))
        for name in json.loads(note.get("opened", "[]")):
            attention = model.get_submodule(name)
            if isinstance(attention, nn.MultiheadAttention):
                open_attention(attention)
        unnested(model)
        _restate(model, json.loads(note.get("sizes", "{}")), json.loads(note.get("sources", "{}")))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged, or of another architecture ({error}); make it again") from error
    _restore_picks(model, tensors, path)
    hidden = {name for name in json.loads(note.get("hidden", "[]")) if name in dict(model.named_buffers())}
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
    _set_widths(model, widths)
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


def _restate(model: nn.Module, sizes: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Make forwards state what they stated. Raises ValueError where the note is none that `save` wrote.

    Calls are found by their lines, or, where the text of a forward is another by now, by their numbers.
    """
    for name, layers in sizes.items():
        layers = [layers] if isinstance(layers, Mapping) else layers  # of one pruning, as files before had it
        by_line = sources.get(name) == _digest(model.get_submodule(name))
        restate(model.get_submodule(name), tuple(_checked(name, stated, by_line) for stated in layers))


def _checked(name: str, stated: Mapping[str, Any], by_line: bool) -> dict[str, list[tuple[Any, Any]]]:
    found = {}
    for call, changes in stated.items():
        for path, value in changes:
            if not path or not all(isinstance(step, (int, str)) for step in path):
                raise ValueError(f"the sizes of {name} have no place")
            if not isinstance(value, (int, float)) and not all(isinstance(each, int) for each in value):
                raise ValueError(f"the sizes of {name} are no numbers")
        if by_line or "@" not in call:
            found[call] = [(tuple(path), value) for path, value in changes]
    return found


def _digest(module: nn.Module) -> str:
    """Of the text of the module's own forward."""
    kind = type(module).__mro__[2] if isinstance(module, Restated) else type(module)
    return hashlib.sha256(source_of(getattr(kind, "forward", None)).encode()).hexdigest()[:16]


def _set_widths(model: nn.Module, widths: Mapping[str, Mapping[str, int | list[int]]]) -> None:
    """Give modules the sizes that the file says they have, where they have such a number."""
    for name, module in model.named_modules():
        for key, value in widths.get(name, {}).items():
            old = getattr(module, key, None)
            if says_size(key) and type(old) is int and isinstance(value, int):
                setattr(module, key, value)
            elif says_size(key) and isinstance(old, tuple) and isinstance(value, list) and len(old) == len(value):
                setattr(module, key, tuple(value))
        shape, weight = getattr(module, "normalized_shape", None), getattr(module, "weight", None)
        if isinstance(shape, tuple) and isinstance(weight, Tensor):  # files of before did not say it
            module.normalized_shape = tuple(weight.shape)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError with the cause."""
    place = Path(path)
    if not place.is_file():
        raise CheckpointError(f"there is no file {place}")
    try:
        with safe_open(place, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        head = place.read_bytes()[:4]
        if head[:2] == b"PK" or head[:1] == b"\x80":
            raise CheckpointError(
                f"{place} is a pickle, and unpickling can run any code; convert it where it was made: "
                "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
            ) from error
        raise CheckpointError(f"{place} is not a whole safetensors file ({error}); make it again") from error


def trained(path: str | os.PathLike[str], fresh: nn.Module) -> nn.Module:
    """The network that a file holds, dense or already pruned: what `save` wrote, or else as `load_weights` reads it.

    `fresh` is an untrained network of the dense architecture. Raises CheckpointError.
    """
    if Path(path).suffix == ".safetensors" and read_tensors(path)[1].get("format") in READ:
        return load(path, fresh)
    load_weights(fresh, path)
    return fresh


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Fill a dense network from a safetensors file, or from a plain state dict read with `weights_only=True`.

    A state dict may be the only one in a dict of other things, and a wrapper may stand before all of its names
    ("module.", "_orig_mod.", "model."). Raises CheckpointError where the file is unsafe, damaged, or does not fit.
    """
    place = Path(path)
    if place.suffix == ".safetensors" or not place.is_file():
        state: Any = read_tensors(place)[0]
    else:
        state = _weights_only(place)
    known = model.state_dict().keys()
    state = _unwrapped(state, known)
    missing, unknown = sorted(known - state), sorted(state.keys() - known)
    if missing or unknown:
        raise CheckpointError(
            f"{place} does not fit {type(model).__name__}: missing {missing[:3]}, unknown {unknown[:3]}; give the "
            "architecture, and its options, that it was trained with"
        )
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError) as error:
        lines = " ".join(str(error).split())
        raise CheckpointError(
            f"{place} does not fit {type(model).__name__} as it is built: give the options (number of classes, width) "
            f"that it was trained with. {lines[:300]}"
        ) from error


def _unwrapped(state: dict[str, Tensor], known: KeysView[str]) -> dict[str, Tensor]:
    """Without what wrappers put before every name."""
    while not known & state.keys():
        wrappers = {name.partition(".")[0] for name in state}
        if len(wrappers) != 1 or not all("." in name for name in state):
            break
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
    return state


def _weights_only(place: Path) -> dict[str, Tensor]:
    try:
        raw = torch.load(place, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{place} holds more than tensors, or is damaged, and was not loaded (unpickling can run any code); "
            "save it again as safetensors"
        ) from error
    if _is_state(raw):
        return dict(raw)
    inside = {key: value for key, value in raw.items() if _is_state(value)} if isinstance(raw, dict) else {}
    if len(inside) == 1:
        return dict(*inside.values())
    if inside:
        raise CheckpointError(f"{place} holds several state dicts ({', '.join(map(str, inside))}); save the one alone")
    raise CheckpointError(f"{place} is not a state dict (name -> tensor); save model.state_dict()")


def _is_state(raw: object) -> bool:
    return (
        isinstance(raw, dict)
        and bool(raw)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in raw.items())
    )
