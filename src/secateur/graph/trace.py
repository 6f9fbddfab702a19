"""Model + example input -> layers with shapes, and the sites that can be cut. The model itself is never touched."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph.axes import Axis
from secateur.graph.compared import Comparison, Widths, checked, deciding, numbers_told
from secateur.graph.count import count_costs
from secateur.graph.extent import Kept
from secateur.graph.follow import Follower, Record, in_double, plain_kernels
from secateur.graph.forward import Calls, watch
from secateur.graph.graph import ModelGraph
from secateur.graph.inputs import Example, Inputs, as_inputs, joined, tensors_in
from secateur.graph.network import Keys, describe, with_reasons
from secateur.graph.private import copied, forgetful, hooked_by_caller, private_copy
from secateur.graph.recorder import Recorder, Statement
from secateur.graph.sizes import Spot
from secateur.graph.stated import attributes, queries_to_a_key, says_size, spoken, stated_sizes
from secateur.graph.unreached import leave_what_did_not_run, watch_training
from secateur.sparse import masked_layers


@dataclass
class Traced:
    """A network that was followed: its graph, and what a proof needs to run it again in the same way."""

    graph: ModelGraph
    model: nn.Module
    """A private copy, in double precision where it runs so."""
    inputs: Inputs
    """Of noise where the network takes it, else the example."""
    record: Record
    keys: Keys
    answers: list[Tensor]
    """The tensors of its answer."""
    drew: bool
    """Whether it drew random numbers."""

    @property
    def double(self) -> bool:
        """Whether the copy is in double precision."""
        return in_double(self.model)

    def alive(self, kept: Kept) -> Callable[[Axis], Tensor | None]:
        """Masks [size] of the members of axes that are left; None where all are."""

        def mask(axis: Axis) -> Tensor | None:
            extent = self.keys.extent(axis)
            if not set(extent.groups) & set(kept):
                return None
            return torch.zeros(extent.length, dtype=torch.bool).index_fill_(
                0, torch.from_numpy(extent.alive(kept)), True
            )

        return mask


def trace(model: nn.Module, example_input: Example) -> ModelGraph:
    """Read the layers and the channel groups of `model` from one forward pass over `example_input`.

    Works on a private copy: weights, mode, `requires_grad` and hooks of the caller's model stay as they are.
    Raises TraceError where the model does not run, cannot be followed, or has nothing that can be pruned.
    """
    return follow(model, example_input).graph


def follow(model: nn.Module, example_input: Example) -> Traced:
    """The same, with what a proof needs."""
    with torch.inference_mode(False):
        # In plain order: other layouts turn views into copies, and the channels could not be followed through them.
        private = private_copy(model).requires_grad_(False)
        inputs = examples_of(private, example_input).map(lambda x: x.clone(memory_format=torch.contiguous_format))
        private.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        _refuse_broken_weights(private)
        _refuse_sparse_weights(private)
        _tell_of_hooks(model)
        inputs = _several(private, inputs)
        calls = watch(private, inputs)
        _refuse_single_pictures(private, inputs, calls)
        dense = count_costs(private, inputs)
        itemsizes = {name: x.element_size() for name, x in (*private.named_parameters(), *private.named_buffers())}
        followed = _followed(private, inputs)
    follower, precise = followed.follower, followed.follower.model
    described = describe(follower, calls, len(inputs), itemsizes)
    stated = stated_sizes(followed.statements, followed.calls, described.keys)
    said = attributes(precise, follower, described.layers, described.keys)
    compared = [(module, described.keys.extent(axis)) for module, axis in checked(followed.compared)]
    shared = queries_to_a_key(follower, described.keys)
    said = (*said, *spoken(precise, stated, [*compared, *shared], said))
    lengths = {(each.module, each.name): each.extents[0] for each in said if not each.several}
    decide = deciding(followed.compared, described.keys.extent, lengths)
    graph = ModelGraph(
        described.layers, with_reasons(described.groups, decide), dense, described.tensors, said, stated,
        tuple(dict.fromkeys(follower.record.norms)), tuple(dict.fromkeys(follower.record.spectra)),
    )  # fmt: skip
    if not graph.prunable:
        reasons = "; ".join(f"{group.key}: {group.fixed}" for group in graph.groups[:5]) or "it has no such layers"
        raise TraceError(f"nothing of {type(model).__name__} can be pruned ({reasons})")
    answers = followed.answers
    return Traced(graph, precise, followed.inputs, follower.record, described.keys, answers, followed.drew)


@dataclass
class _Followed:
    """A pass: who followed it, what it stated and answered, and on what."""

    follower: Follower
    statements: Sequence[Statement]
    calls: Collection[Spot]
    inputs: Inputs
    answers: list[Tensor]
    drew: bool
    compared: list[Comparison]


def _followed(model: nn.Module, example: Inputs) -> _Followed:
    """One pass, in double precision and on noise where the network runs so: a forward may make tensors of its own, or
    take what lies in some range alone. Then what runs in training, and what the parameters left out may hang on."""
    generator = torch.Generator().manual_seed(0)  # the caller's random numbers are not touched
    noise = example.map(
        lambda x: torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x.clone()
    )
    double = _without_zeros(copied(model).double(), generator)
    attempts = (double, noise), (double, example), (model, noise), (model, example)
    found: _Followed | None = None
    for number, (network, given) in enumerate(attempts):
        last = number + 1 == len(attempts)
        inputs = given.map(lambda x, wide=network is double: x.double() if wide and x.is_floating_point() else x)  # type: ignore[misc]
        try:
            now = _pass(network, inputs)
        except Exception:
            if last and found is None:
                raise
            continue
        if all(bool(x.isfinite().all()) for x in now.answers) or (last and found is None):
            if not now.follower.emptied:
                found = now
                break
            if found is None or number == 1:  # a detector may find nothing in what it is given
                found = now
    assert found is not None
    watch_training(found.follower, found.inputs)
    leave_what_did_not_run(found.follower)
    for name, tensor in found.follower.names.items():
        if re.search(r"\bweight_hr_l\d", name):
            found.follower.axes[tensor][1].fix("torch takes a recurrent layer to have a projection if it is wider")
        for axis in found.follower.axes[tensor]:
            axis.fix_squares()
    return found


def _without_zeros(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Parameters that are zero throughout, as branches and biases begin, are none: what they stand before would not
    show in the answers."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.numel() and not parameter.any():
            parameter.copy_(0.1 * (1 + torch.rand(parameter.shape, generator=generator)))
    return model


def _pass(model: nn.Module, inputs: Inputs) -> _Followed:
    try:
        return _watched(model, inputs, compared=True)
    except TypeError:  # some code asks for whole numbers of the plainest type
        return _watched(model, inputs, compared=False)


def _watched(model: nn.Module, inputs: Inputs, compared: bool) -> _Followed:
    """`compared`: whether sizes tell of being compared."""
    follower = Follower(model)
    recorder = Recorder(follower.axes_of, follower.calls)
    widths = Widths(follower.axes_of, lambda: (follower.scope.module, follower.where()))
    follower.give(inputs.tensors)
    before = _random_states()
    with torch.no_grad(), torch.random.fork_rng([]), plain_kernels(in_double(model)), follower, recorder:
        with ExitStack() as stack:
            if compared:
                stack.enter_context(numbers_told(model, widths, says_size))
                stack.enter_context(widths)
            outputs = inputs.run(forgetful(model))
        drew = _random_states() != before
    follower.take(outputs)
    answers = [x.detach() for x in tensors_in(outputs)]
    return _Followed(follower, recorder.statements, recorder.calls_made, inputs, answers, drew, widths.noted)


def _random_states() -> tuple[object, ...]:
    """From which the next random numbers come, of torch, Python and numpy."""
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())


def _tell_of_hooks(model: nn.Module) -> None:
    hooked = hooked_by_caller(model)
    if hooked is not None:
        name = next(name for name, module in model.named_modules() if module is hooked)
        warnings.warn(
            f"{name or type(model).__name__} has forward hooks, which a pruned network does not have: if they "
            "change what it answers, let its forward do that",
            stacklevel=5,
        )


def examples_of(model: nn.Module, example: Example | Inputs) -> Inputs:
    """The arguments of a pass: whether they are examples one by one shows where the network answers for some alone."""
    inputs = as_inputs(example)
    if inputs.whole or len(set(inputs.lengths)) < 2:
        return inputs
    few = max(len(inputs) - 1, 1)
    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            alone, beside = (tensors_in(x.run(forgetful(copied(model)))) for x in (inputs.part(0, few), inputs))
    except Exception:  # its numbers tell of each other
        return replace(inputs, whole=True)
    theirs = [(x, y[:few]) for x, y in zip(alone, beside, strict=False) if y.dim() and len(y) == len(inputs)]
    same = all(x.shape == y.shape and torch.allclose(x, y, rtol=1e-2, atol=1e-3) for x, y in theirs)
    return replace(inputs, whole=not same)


def _several(model: nn.Module, inputs: Inputs) -> Inputs:
    """One example twice, where the network takes two: `squeeze` takes the batch away from one alone."""
    if inputs.whole or len(inputs) != 1 or any(len(x) != 1 for x in inputs.tensors):
        return inputs
    twice = joined([inputs, inputs])
    try:
        with torch.no_grad():
            twice.run(model)
    except Exception:  # it is made for one at a time
        return inputs
    return twice


def _refuse_single_pictures(model: nn.Module, inputs: Inputs, calls: Calls) -> None:
    """An example [C, H, W] would be taken for C examples."""
    first = next(iter(calls.order), "")
    kernel = getattr(model.get_submodule(first), "kernel_size", ())
    shapes = [tuple(x.shape) for x in inputs.tensors]
    if kernel and len(shapes) == 1 and calls.shapes[first][0][0] == shapes[0] and len(shapes[0]) == len(kernel) + 1:
        raise TraceError(
            f"the example {list(shapes[0])} has no batch dimension: give several examples as one tensor, or one as "
            f"{[1, *shapes[0]]} (example[None])"
        )


def _refuse_broken_weights(model: nn.Module) -> None:
    """Such a network answers nothing, and every proof on it would fail."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise TraceError(f"{name} of {type(model).__name__} is not finite (NaN or infinity): give whole weights")


def _refuse_sparse_weights(model: nn.Module) -> None:
    names = [name for name, *_ in masked_layers(model)]
    if names:
        raise TraceError(
            f"{names[0]} is sparse already, as {len(names)} layers are, and cannot be pruned once more: take the "
            "network from before, and let one search choose channels and weights together"
        )
