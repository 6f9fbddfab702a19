"""How to fine-tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from secateur.errors import SecateurError

Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True)
class FineTune:
    """How to fine-tune. The cosine schedule falls over all epochs, after `warmup_epochs` of rising."""

    epochs: int = 20
    lr: float = 0.01
    lr_floor: float = 0.0
    """Share of `lr` that the schedule ends at; above 0 for weights that are averaged (Izmailov et al., 2018)."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 0.5
    distil: float = 0.7
    """Share of the loss that is agreement with the teacher; the rest is the labels. 0 without a teacher."""
    temperature: float = 3.0
    """Softening of both networks' logits for distillation (Hinton et al., 2015)."""
    features: tuple[str, ...] = ()
    """Modules whose outputs are to be as the teacher's too (Romero et al., 2015); both have to be of one shape."""
    feature_weight: float = 1.0
    """Of the squared gap between them, as a share of the teacher's energy, beside the rest of the loss."""
    label_smoothing: float = 0.0
    clip: float = 5.0
    """Largest norm of the gradient."""
    averaging: float = 0.0
    """Deliver an exponential average of the weights that keeps this share of itself at each step (0.999, say)."""
    precision: Precision = "auto"
    """float32, bfloat16 (autocast), or auto: bfloat16 where the GPU, or the CPU (AMX, AVX-512 BF16), computes in it."""
    channels_last: bool = True
    """Lay images and weights out as most kernels of convolutions like them."""
    compile: bool = False
    """Compile the network first (torch.compile). On a CPU it has not paid (`benchmarks/training_step.py`)."""
    replay: bool = False
    """On a GPU, record a step once as a CUDA graph and replay it: for small networks, which Python is slow to launch.
    What `forward` decides in Python at every pass (a layer dropped by `random`, say) would be decided once."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or not 0 <= self.distil <= 1 or self.precision not in get_args(Precision):
            raise SecateurError(
                f"fine-tuning with epochs = {self.epochs}, distil = {self.distil}, precision = {self.precision!r}: "
                f"epochs are 0 or more, distil lies in [0, 1], precision is one of {', '.join(get_args(Precision))}"
            )
        if self.lr <= 0 or not 0 <= self.momentum < 1 or min(self.weight_decay, self.warmup_epochs) < 0:
            raise SecateurError(
                f"fine-tuning with lr = {self.lr}, momentum = {self.momentum}, weight_decay = {self.weight_decay}, "
                f"warmup_epochs = {self.warmup_epochs}: lr is above 0, momentum in [0, 1), the others 0 or more"
            )
        if not 0 <= self.lr_floor <= 1:
            raise SecateurError(f"fine-tuning with lr_floor = {self.lr_floor}: it is a share of lr, in [0, 1]")
        if min(self.temperature, self.clip) <= 0 or not 0 <= self.label_smoothing < 1:
            raise SecateurError(
                f"fine-tuning with temperature = {self.temperature}, clip = {self.clip}, label_smoothing = "
                f"{self.label_smoothing}: temperature and clip are above 0, label_smoothing lies in [0, 1)"
            )
        if not 0 <= self.averaging < 1 or self.feature_weight < 0:
            raise SecateurError(
                f"fine-tuning with averaging = {self.averaging}, feature_weight = {self.feature_weight}: averaging "
                "lies in [0, 1), feature_weight is 0 or more"
            )
        if self.compile and (self.features or self.replay):
            raise SecateurError("fine-tuning by features, or replayed, needs the network as it is: leave compile out")
