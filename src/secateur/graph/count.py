"""An independent count of what a built network costs: it knows nothing of layers and groups."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.graph.private import Example, as_inputs
from secateur.plan import Costs


def count_costs(model: nn.Module, example_input: Example) -> Costs:
    """Count one example's costs on a built network, independently of any graph.

    MACs are half of what `torch.utils.flop_counter` counts on the meta device (it also sees attention); a model
    that does not run there (what it does depends on numbers, or it holds tensors that are no buffers) is counted
    on its own device.
    """
    inputs = as_inputs(example_input)
    private = copy.deepcopy(model).eval()
    try:
        with torch.device("meta"):
            flops = _flops(private.to("meta"), tuple(x.to("meta") for x in inputs))
    except Exception:
        flops = _flops(copy.deepcopy(model).eval(), inputs)
    state = model.state_dict().values()
    return Costs(
        macs=flops // 2 // len(inputs[0]),
        params=sum(parameter.numel() for parameter in model.parameters()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in state),
    )


def _flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(*inputs)
    return counter.get_total_flops()
