"""What a network is called with: tensors by position or by name, in lists and dicts, beside numbers and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.errors import TraceError

Example = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""A tensor; a tuple of positional arguments; a dict of keywords; or a list, which is one argument (`[image, ...]`)."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward pass.

    The examples lie along the first dimension of every tensor; those of a list of tensors are its members.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False
    """Whether it is one example whose tensors hang together, as the nodes and the edges of a graph do."""

    def run(self, network: Callable[..., Any]) -> Any:
        """What the network answers. It may write into what it is given: it gets copies."""
        args, kwargs = _mapped((self.args, dict(self.kwargs)), Tensor.clone)
        return network(*args, **kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in order."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    @property
    def plain(self) -> bool:
        """Whether it is tensors by position, and nothing else."""
        return not self.kwargs and all(isinstance(each, Tensor) for each in self.args)

    def __len__(self) -> int:
        """How many examples there are."""
        return 1 if self.whole else next(self.lengths, 1)

    @property
    def lengths(self) -> Iterator[int]:
        """Of the first dimension of every tensor, and of lists of tensors."""
        return _lengths((self.args, dict(self.kwargs)))

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Every tensor changed."""
        args, kwargs = _mapped((self.args, dict(self.kwargs)), change)
        return Inputs(args, kwargs, self.whole)

    def part(self, start: int, stop: int) -> Inputs:
        """Some of the examples."""
        size = len(self)
        return self if self.whole else Inputs(*_part((self.args, dict(self.kwargs)), start, stop, size))

    def chosen(self, numbers: Tensor) -> Inputs:
        """The examples of these numbers, [n]."""
        size = len(self)
        return self if self.whole else Inputs(*_chosen((self.args, dict(self.kwargs)), numbers, size))

    def to(self, device: torch.device | None) -> Inputs:
        """On another device."""
        return self if device is None else self.map(lambda x: x.to(device))

    def shapes(self) -> str:
        """In words."""
        return ", ".join(str(tuple(x.shape)) for x in self.tensors)


def as_inputs(example: Example | Inputs) -> Inputs:
    """The arguments that an example stands for. Raises TraceError on what is none."""
    if isinstance(example, Inputs):
        return example
    if isinstance(example, Tensor):
        found = Inputs((example,))
    elif isinstance(example, Mapping):
        found = Inputs((), {str(name): value for name, value in example.items()})
    elif isinstance(example, tuple):
        found = Inputs(example)
    elif isinstance(example, list):
        found = Inputs((example,))
    else:
        found = Inputs()
    if not any(x.dim() for x in found.tensors) or not all(x.numel() for x in found.tensors):
        raise TraceError(
            "the example input is a tensor with a batch dimension, a tuple of what the forward takes by position, a "
            "dict of what it takes by name, or a list where it takes one; each tensor with an example at least"
        )
    return found.map(Tensor.detach)


def joined(pieces: Sequence[Inputs]) -> Inputs:
    """The examples of several, one behind the other. Raises RuntimeError where their sizes do not allow that."""
    if len(pieces) == 1:
        return pieces[0]
    return Inputs(*_joined([(piece.args, dict(piece.kwargs)) for piece in pieces]))


NO_ANSWERS = (nn.Module, type, ModuleType, FunctionType)
"""What may be among answers, and holds none."""


def tensors_in(answer: object) -> list[Tensor]:
    """All tensors that a network answers with: in containers, dataclasses, distributions and other objects."""
    found: list[Tensor] = []
    _collect(answer, found, set())
    return found


def _collect(value: object, found: list[Tensor], seen: set[int]) -> None:
    """Of an object of any class, only where nothing else is answered: caches lie beside answers, and are none."""
    leaves = tree_leaves(value)
    alone = not any(isinstance(leaf, Tensor) for leaf in leaves)
    for leaf in leaves:
        known = is_dataclass(leaf) or isinstance(leaf, torch.distributions.Distribution)
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif (
            not isinstance(leaf, NO_ANSWERS)
            and (known or (alone and hasattr(leaf, "__dict__")))
            and id(leaf) not in seen
        ):
            seen.add(id(leaf))
            for each in vars(leaf).values():
                _collect(each, found, seen)


class Positional(nn.Module):
    """A network that takes its tensors one by one, and answers with those of its answer: for exporters and runtimes."""

    def __init__(self, network: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.network, self._inputs = network, inputs

    def forward(self, *tensors: Tensor) -> Any:
        """In the order of `Inputs.tensors`."""
        given = iter(tensors)
        found = self._inputs.map(lambda _: next(given)).run(self.network)
        leaves = tuple(tensors_in(found))
        return leaves[0] if len(leaves) == 1 else leaves


def positional(network: nn.Module, inputs: Inputs) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network and its tensors as they are taken by position; itself where it takes them so, and answers by tensors
    alone (transformers' networks answer by classes of theirs)."""
    if inputs.plain and _answers_by_tensors(network, inputs):
        return network, inputs.args
    return Positional(network, inputs).train(network.training), tuple(inputs.tensors)


def _answers_by_tensors(network: nn.Module, inputs: Inputs) -> bool:
    """One, or a tuple or list of them; found out by one example, in eval mode. That it does not run, or answers by no
    tensor at all, is another's to tell."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            answer = inputs.part(0, 1).run(network.eval())
    except Exception:
        return True
    finally:
        for module, mode in modes:
            module.training = mode
    several = answer if isinstance(answer, (tuple, list)) else (answer,)
    return all(isinstance(each, Tensor) for each in several) or not tensors_in(answer)


def _lengths(value: Any) -> Iterator[int]:
    if isinstance(value, Tensor):
        if value.dim():
            yield len(value)
    elif isinstance(value, list):
        if any(isinstance(each, Tensor) for each in value):
            yield len(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _lengths(each)
    elif isinstance(value, tuple):
        for each in value:
            yield from _lengths(each)


def _again(value: Any, parts: list[Any]) -> Any:
    """A list, tuple or named tuple of others."""
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(each, change) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return _again(value, [_mapped(each, change) for each in value])
    return value


def _part(value: Any, start: int, stop: int, size: int) -> Any:
    if isinstance(value, Tensor):
        return value[start:stop] if value.dim() and len(value) == size else value
    if isinstance(value, Mapping):
        return {name: _part(each, start, stop, size) for name, each in value.items()}
    if isinstance(value, list) and any(isinstance(each, Tensor) for each in value):
        return value[start:stop] if len(value) == size else value
    if isinstance(value, (tuple, list)):
        return _again(value, [_part(each, start, stop, size) for each in value])
    return value


def _chosen(value: Any, numbers: Tensor, size: int) -> Any:
    if isinstance(value, Tensor):
        return value[numbers.to(value.device)] if value.dim() and len(value) == size else value
    if isinstance(value, Mapping):
        return {name: _chosen(each, numbers, size) for name, each in value.items()}
    if isinstance(value, list) and len(value) == size and any(isinstance(each, Tensor) for each in value):
        return [value[number] for number in numbers.tolist()]
    if isinstance(value, (tuple, list)):
        return _again(value, [_chosen(each, numbers, size) for each in value])
    return value


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values)) if first.dim() else first
    if isinstance(first, Mapping):
        return {name: _joined([each[name] for each in values]) for name in first}
    if isinstance(first, list) and any(isinstance(each, Tensor) for each in first):
        return [each for value in values for each in value]
    if isinstance(first, (tuple, list)):
        return type(first)(_joined(list(each)) for each in zip(*values, strict=True))
    return first
