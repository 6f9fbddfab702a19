"""Actor and critic: two hidden layers of 300 each (AMC, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EDGE = 0.01
"""How near to 0 and 1 advice may come."""


def _linear(inward: int, outward: int) -> nn.Linear:
    """A layer without values yet: the caller's random numbers are not drawn from."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inward, outward)
    return layer


def _initialise(layers: list[nn.Linear], generator: torch.Generator) -> None:
    """Uniform in +-1/sqrt(fan in); the last layer near zero, so that first answers are undecided."""
    for number, layer in enumerate(layers):
        bound = 3e-3 if number == len(layers) - 1 else layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            with torch.no_grad():
                parameter.uniform_(-bound, bound, generator=generator)


class Actor(nn.Module):
    """State [batch, features] -> action [batch] in (0, 1).

    An advised one is told an action by the last feature, takes it at first, and learns what to add to its logit.
    """

    def __init__(self, features: int, hidden: int, generator: torch.Generator, advised: bool = False) -> None:
        super().__init__()
        self.advised = advised
        self.first = _linear(features, hidden)
        self.second = _linear(hidden, hidden)
        self.last = _linear(hidden, 1)
        _initialise([self.first, self.second, self.last], generator)

    def forward(self, state: Tensor) -> Tensor:
        """The fraction to keep."""
        hidden = torch.relu(self.second(torch.relu(self.first(state))))
        answer = self.last(hidden).squeeze(-1)
        return torch.sigmoid(answer + torch.logit(state[:, -1], EDGE) if self.advised else answer)


class Critic(nn.Module):
    """State [batch, features], action [batch] -> value [batch]."""

    def __init__(self, features: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = _linear(features + 1, hidden)
        self.second = _linear(hidden, hidden)
        self.last = _linear(hidden, 1)
        _initialise([self.first, self.second, self.last], generator)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """The return expected from here on."""
        seen = torch.cat([state, action[:, None]], 1)
        hidden = torch.relu(self.second(torch.relu(self.first(seen))))
        value: Tensor = self.last(hidden).squeeze(-1)
        return value
