"""An independent count of what a built network costs: it knows nothing of layers and groups."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from secateur.graph.forward import PRODUCERS
from secateur.graph.inputs import Example, Inputs, as_inputs
from secateur.graph.private import copied
from secateur.plan import Costs
from secateur.sparse import dense_again, masked_layers, stored_bytes


def count_costs(model: nn.Module, example_input: Example | Inputs) -> Costs:
    """Count one example's costs on a built network, independently of any graph.

    MACs are half of what `torch.utils.flop_counter` counts on the meta device (it also sees attention); a model
    that does not run there (what it does depends on numbers, or it holds tensors that are no buffers) is counted
    on its own device. Of sparse layers only the weights that are not masked count, and what `secateur.save` writes.
    """
    inputs, model = as_inputs(example_input), dense_again(model)
    private = _frozen(copied(model).eval())
    try:
        with torch.device("meta"):
            flops = _flops(private.to("meta"), inputs.map(lambda x: x.to("meta")))
    except Exception:
        try:
            flops = _flops(_frozen(copied(model).eval()), inputs)
        except RuntimeError:  # it works out gradients itself, which the counter by modules does not bear
            flops = _flops(_frozen(copied(model).eval()), inputs, by_module=False)
    total = flops.pop("Global", 0)
    params = sum(parameter.numel() for parameter in model.parameters())
    state = {(x.data_ptr(), x.shape, x.stride()): x for x in model.state_dict().values()}  # tied weights are saved once
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    blocks = 0
    for name, layer, mask, pattern in masked_layers(model):
        weight, gone = layer.get_parameter("weight"), int((~mask).sum())
        total -= round(flops.get(".".join(filter(None, (type(model).__name__, name))), 0) * gone / mask.numel())
        params -= gone
        size -= max(weight.nbytes - stored_bytes(weight, mask, pattern), 0)
        blocks += pattern.skipped(mask.flatten(1))
    layers = sum(module.weight.numel() for module in model.modules() if isinstance(module, PRODUCERS))
    return Costs(total // 2 // len(inputs), params, size, block_sparsity=blocks / max(layers, 1))


def _trilinear(one: list[int], weight: list[int], other: list[int], *_: Any, **__: Any) -> int:
    """`nn.Bilinear`, which torch's counter passes over: [N, in1], [out, in1, in2], [N, in2]."""
    return 2 * one[0] * math.prod(weight)


def _frozen(model: nn.Module) -> nn.Module:
    """The counter asks for gradients of what requires them."""
    for parameter in model.parameters():
        parameter.detach_()  # of scripted modules, copies are no leaves
    return model


class _Total(TorchDispatchMode):
    """All operations together."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run it, and count it."""
        found = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=found)
        return found


def _flops(model: nn.Module, inputs: Inputs, by_module: bool = True) -> dict[str, int]:
    """By the name of the module, after that of the network; the whole is called Global."""
    if not by_module:
        with torch.no_grad(), _Total() as total:
            inputs.run(model)
        return {"Global": total.flops}
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._trilinear: _trilinear})
    with torch.no_grad(), counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs.run(model)
    return {name: sum(by_kind.values()) for name, by_kind in counter.get_flop_counts().items()}
