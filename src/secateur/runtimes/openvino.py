"""OpenVINO on one CPU thread: quicker than torch, and quicker still in 8 bits (benchmarks/trial_cost.py says how much).

Converting a network takes a second or two, too long for each of hundreds of candidates that differ in widths alone.
So one candidate is converted with its tensors as inputs of the graph, all sizes left open; another's are then set
into a copy as constants, and OpenVINO works the sizes out anew. What the conversion did fix, a number of channels
written into the model's own Python code, shows in the first answers: they are compared with torch's for every
candidate, and one that fails is converted itself. A network that OpenVINO cannot run at all stays in torch.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.errors import JobError
from secateur.graph import copied
from secateur.runtimes.ranges import LAYERS, Ranges, input_ranges

try:
    import openvino as ov
    from openvino import opset13 as ops
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from openvino.op import Constant
    from openvino.passes import ConstantFolding, Manager
except ImportError as error:
    raise JobError("this engine needs the package openvino: pip install openvino onnx onnxscript") from error

# No pinning: two engines side by side would be pinned to the same core. f32 has to be said, or it may be 16 bits.
SETTINGS = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
    "INFERENCE_PRECISION_HINT": "f32",
}
TRACED, PROBED = 2, 3
"""Calibration examples to convert with, and to compare answers on; another number, lest it be fixed unnoticed."""
EXACT, ROUGH = 1e-3, 0.3
"""Largest error allowed on them, as a fraction of the answers' norm: in f32, in 8 bits."""
PROOFS = 3
"""Candidates that are checked in f32 too where 8 bits are asked for: rounding could hide a small mistake."""
VNNI = getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
WEIGHTS = 127 if VNNI else 63
"""Levels of a weight on each side of 0. Without VNNI the processor adds pairs of products in 16 bits, and would clip
those of full 8-bit weights."""
OPERATIONS = ("Convolution", "GroupConvolution", "MatMul")

# torch.jit keeps what it is tracing in global tables.
_converting = threading.Lock()


class OpenVino:
    """The engine: see `secateur.runtimes.engine`. `fallback` says why it leaves all networks to torch, if it does."""

    def __init__(
        self, dense: nn.Module, example: tuple[Tensor, ...], calibration: tuple[Tensor, ...], int8: bool = False
    ) -> None:
        inputs = calibration or example
        self.fallback = ""
        self.conversions = 0
        self._probe = tuple(x[:PROBED].cpu() for x in inputs)
        self._ranges = input_ranges(dense, inputs) if int8 else {}
        self._template: _Template | None = None

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network compiled; itself where OpenVINO cannot run it, or where it gives no finite answers."""
        if not self.fallback and any(tensor.device.type != "cpu" for tensor in _tensors(network).values()):
            self.fallback = "it does not lie in the CPU's memory"
        if self.fallback:
            return network
        with torch.inference_mode():
            expected = network(*self._probe)
        if not isinstance(expected, Tensor):
            self.fallback = f"its answer is {type(expected).__name__}, not one tensor"
            return network
        if not expected.isfinite().all():
            return network
        if self._template is not None:
            # Where it does not fit, whatever is wrong, the network's own conversion is the way out.
            with suppress(Exception):
                return self._compiled(self._template, network, expected)
        try:
            template = _Template(network, tuple(x[:TRACED] for x in self._probe))
            compiled = self._compiled(template, network, expected)
        except Exception as error:
            if self._template is None:
                self.fallback = f"{type(error).__name__}: {error}"
            return network
        self._template = template
        self.conversions += 1
        return compiled

    def _compiled(self, template: _Template, network: nn.Module, expected: Tensor) -> nn.Module:
        """Raises ValueError where the template does not give this network's answers, and what OpenVINO raises."""
        exact = None
        if not self._ranges or template.proofs < PROOFS:
            exact = self._exact(template, network, expected)
            template.proofs += 1
        if self._ranges:
            rough = Compiled(network, template.filled(network, self._ranges))
            if self._error(rough, expected) <= ROUGH:
                return rough
        return exact or self._exact(template, network, expected)

    def _exact(self, template: _Template, network: nn.Module, expected: Tensor) -> nn.Module:
        compiled = Compiled(network, template.filled(network, {}))
        error = self._error(compiled, expected)
        if not error <= EXACT:
            raise ValueError(f"the converted network's answers are off by {error:.2g} of their norm")
        return compiled

    def _error(self, compiled: nn.Module, expected: Tensor) -> float:
        answers = compiled(*self._probe)
        if answers.shape != expected.shape:
            return float("inf")
        return float((answers - expected).norm() / expected.norm().clamp_min(1e-30))


class Compiled(nn.Module):
    """A network that OpenVINO runs: same inputs [N, ...] and answers, for any N."""

    def __init__(self, network: nn.Module, model: Any) -> None:
        super().__init__()
        self.network = network
        self.eval()
        self._sizes = [tuple(size.get_partial_shape())[1:] for size in model.inputs]
        self._request = ov.Core().compile_model(model, "CPU", SETTINGS).create_infer_request()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs of another size than the example's, but for N, go to the network itself."""
        if [tuple(x.shape[1:]) for x in inputs] != self._sizes:
            answers: Tensor = self.network(*inputs)
            return answers
        arrays = [_array(x) for x in inputs]  # shared, so they have to live until the answer is there
        for index, array in enumerate(arrays):
            self._request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
        self._request.infer()
        # The next call writes its answers into the same memory.
        return torch.from_numpy(self._request.get_output_tensor(0).data.copy()).to(inputs[0].device)


class _Lifted(nn.Module):
    """A copy of a network that takes its tensors as arguments, after its inputs."""

    def __init__(self, network: nn.Module, inputs: int, names: list[str]) -> None:
        super().__init__()
        self.held = [copied(network)]  # in a list, lest its tensors count as this module's own
        self.inputs, self.names = inputs, names

    def forward(self, *arguments: Tensor) -> Any:
        """The network's answer with the given tensors in place of its own."""
        network = self.held[0]
        for name, tensor in zip(self.names, arguments[self.inputs :], strict=True):
            path, _, key = name.rpartition(".")
            module = network.get_submodule(path)
            # A parameter's place takes only parameters; a plain attribute takes what is being traced.
            module._parameters.pop(key, None)
            module._buffers.pop(key, None)
            module.__dict__[key] = tensor
        return network(*arguments[: self.inputs])


class _Template:
    """One network converted, the tensors it uses left open. Raises whatever tracing or conversion raises."""

    def __init__(self, network: nn.Module, example: tuple[Tensor, ...]) -> None:
        self.proofs = 0
        self._inputs = len(example)
        with _converting, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            names = list(_tensors(network))
            traced, used = _traced(network, example, names)
            if not all(used):  # OpenVINO leaves out what nothing reads, and the inputs are told apart by place alone
                names = [name for name, reads in zip(names, used, strict=True) if reads]
                traced, used = _traced(network, example, names)
            # Not openvino.convert_model: it reports to its makers over the network, unless told not to.
            frontend = FrontEndManager().load_by_framework("pytorch")
            self._decoder = TorchScriptPythonDecoder(traced)  # it holds the memory of the model's constants
            self._model = frontend.convert(frontend.load(self._decoder))
        self._names = names
        if len(self._model.inputs) != len(example) + len(names) or len(self._model.outputs) != 1:
            raise ValueError("the network does not take and give tensors in the way that is expected")
        # Once for all: what is filled in later has only its own sizes to be worked out.
        self._model.reshape({number: ov.PartialShape([-1, *x.shape[1:]]) for number, x in enumerate(example)})

    def filled(self, network: nn.Module, ranges: Ranges) -> Any:
        """The model with this network's tensors; layers named in `ranges` compute in 8 bits.

        Raises KeyError or what OpenVINO raises where they do not fit.
        """
        model = self._model.clone()
        tensors = _tensors(network)
        parameters = model.get_parameters()[self._inputs :]
        in_8_bits = []
        for parameter, name in zip(parameters, self._names, strict=True):
            owner, _, key = name.rpartition(".")
            value = _array(tensors[name])
            module = network.get_submodule(owner)
            if key == "weight" and isinstance(module, LAYERS):
                for node in _readers(parameter):
                    node.input(1).replace_source_output(Constant(_by_group(value, module, node)).output(0))
                    if owner in ranges:
                        in_8_bits.append((node, *ranges[owner]))
            if parameter.output(0).get_target_inputs():  # whatever else reads the tensor, or only its size
                _pass_on(parameter.output(0), Constant(value))
            model.remove_parameter(parameter)
        model.validate_nodes_and_infer_types()
        simplify = Manager()  # compiling would do it too, but later, when it takes longer
        simplify.register_pass(ConstantFolding())
        simplify.run_passes(model)
        _round(in_8_bits)  # only now, as it would be simplified away
        return model


def _traced(network: nn.Module, example: tuple[Tensor, ...], names: list[str]) -> tuple[Any, list[bool]]:
    """The network traced with its named tensors as inputs, and which of them it reads."""
    tensors = _tensors(network)
    lifted = _Lifted(network, len(example), names)
    traced = torch.jit.trace(lifted, (*example, *(tensors[name] for name in names)), check_trace=False)
    values = list(traced.inlined_graph.inputs())[1 + len(example) :]  # the first is the module itself
    return traced, [bool(value.uses()) for value in values]


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, but for single whole numbers; what several modules share has several names."""
    named = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named if tensor.is_floating_point() or tensor.dim()}


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """The numbers in plain order, shared where they lie so already."""
    array: npt.NDArray[Any] = tensor.detach().cpu().contiguous().numpy()
    return array


def _readers(parameter: Any) -> Iterator[Any]:
    """The convolutions and products that read a weight, directly or parted by groups."""
    for target in parameter.output(0).get_target_inputs():
        node = target.get_node()
        if node.get_type_name() == "Reshape":
            yield from (reader for reader in _readers(node) if reader.get_type_name() == "GroupConvolution")
        elif node.get_type_name() in OPERATIONS and target.get_index() == 1:
            yield node


def _by_group(weight: npt.NDArray[Any], module: nn.Module, node: Any) -> npt.NDArray[Any]:
    """A weight [out, in, ...] as the operation takes it: parted by groups, [groups, out, in, ...], or as it is."""
    if node.get_type_name() != "GroupConvolution":
        return weight
    groups = int(module.groups)  # type: ignore[arg-type]
    return weight.reshape(groups, len(weight) // groups, *weight.shape[1:])


def _round(operations: list[tuple[Any, float, float]]) -> None:
    """Round the weights of operations, and their inputs within the given limits, to 8 bits.

    A pass of OpenVINO turns what is rounded on both sides into integer arithmetic.
    """
    inputs: dict[tuple[str, int, float, float], Any] = {}
    for node, *limits in operations:
        weight = node.input_value(1).get_node().data
        per_channel = tuple(range(2 if node.get_type_name() == "GroupConvolution" else 1, weight.ndim))
        step = np.maximum(np.abs(weight).max(axis=per_channel, keepdims=True) / WEIGHTS, 1e-12).astype(np.float32)
        integers = Constant(np.rint(weight / step).astype(np.int8))
        node.input(1).replace_source_output(ops.multiply(ops.convert(integers, "f32"), Constant(step)).output(0))
        place = _before_padding(node.input(0))
        source = place.get_source_output()
        key = (source.get_node().get_name(), source.get_index(), *limits)
        if key not in inputs:
            inputs[key] = _rounded(source, *limits)
        place.replace_source_output(inputs[key].output(0))


def _before_padding(place: Any) -> Any:
    """Where to round what is read here: zeros stay what they are, and padding that follows costs nothing."""
    padding = place.get_source_output().get_node()
    if padding.get_type_name() != "Pad" or len(padding.output(0).get_target_inputs()) > 1:
        return place
    fill = padding.input_value(3).get_node() if padding.get_input_size() > 3 else None
    constant = padding.get_attributes()["pad_mode"] == "constant"
    zeros = fill is None or (fill.get_type_name() == "Constant" and not fill.data.any())
    return padding.input(0) if constant and zeros else place


def _rounded(source: Any, least: float, greatest: float) -> Any:
    """The value on 256 levels: unsigned where it has no negative numbers, else symmetric about 0."""
    if least < 0:
        greatest = max(-least, greatest)
        least = -greatest * 128 / 127
    low, high = (Constant(np.asarray(limit, np.float32)) for limit in (least, greatest))
    return ops.fake_quantize(source, low, high, low, high, 256)


def _pass_on(output: Any, value: Any) -> None:
    for target in output.get_target_inputs():
        target.replace_source_output(value.output(0))
