"""One walk over the sites: what the agent sees, and what its answers lead to (AMC, section 3.1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from secateur.plan import Plan
from secateur.search.space import SearchSpace

Array = npt.NDArray[np.float32]

FEATURES = ("t", "n", "c", "h", "w", "stride", "k", "cost", "reduced", "rest", "a_tm1")
"""The paper's eleven features; `cost` is FLOPs[t], in the metric of the budget."""


class Episode:
    """The state of one walk. Arithmetic only, so that a whole walk fits inside `ask`.

    A state is float32 [11], every feature in [0, 1]. Site t is described by the first layer that makes its
    channels. `reduced` is what the decisions so far save, `rest` what the layers after this one cost dense,
    both as fractions of the dense network.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._facts = _facts(space)
        self._counts: dict[str, int] = {}
        self._keep_tm1 = 0.0

    def __len__(self) -> int:
        return len(self.space.sites)

    def reset(self) -> Array:
        """Start again; the first state."""
        self._counts, self._keep_tm1 = {}, 0.0
        return self._state()

    @property
    def least(self) -> float:
        """The smallest fraction that may be kept at the site now shown."""
        site = self.space.sites[len(self._counts)]
        return site.keep(site.least)

    @property
    def most(self) -> float:
        """The largest fraction that still lets the sites to come meet the budget."""
        number = len(self._counts)
        return self.space.sites[number].keep(self.space.ceiling(self._counts, number))

    def step(self, keep: float) -> Array:
        """Decide the site now shown; the next state, or the same facts with all decided at the end.

        `keep` is limited to [least, most] and rounded as the site does.
        """
        number = len(self._counts)
        site = self.space.sites[number]
        count = min(site.count(keep), self.space.ceiling(self._counts, number))
        self._counts[site.key] = count
        self._keep_tm1 = site.keep(count)
        return self._state()

    @property
    def done(self) -> bool:
        """Whether every site is decided."""
        return len(self._counts) == len(self.space.sites)

    @property
    def keeps(self) -> list[float]:
        """The fractions decided so far."""
        pairs = zip(self.space.sites, self._counts.values(), strict=False)
        return [site.keep(count) for site, count in pairs]

    def states_of(self, plan: Plan) -> Array:
        """The states that lead to `plan`, [sites, 11]: what the agent would have seen on the way."""
        states = [self.reset()]
        for site in self.space.sites[:-1]:
            self._counts[site.key] = site.count(plan[site.key])
            self._keep_tm1 = site.keep(self._counts[site.key])
            states.append(self._state())
        return np.stack(states).astype(np.float32)

    def _state(self) -> Array:
        number = min(len(self._counts), len(self.space.sites) - 1)
        state: Array = self._facts[number].copy()
        reduced = 1.0 - self.space.cost(self._counts) / self.space.cost.dense
        state[FEATURES.index("reduced")] = reduced
        state[FEATURES.index("a_tm1")] = self._keep_tm1
        return state


def _facts(space: SearchSpace) -> Array:
    """The features that no decision changes, each scaled by its largest value over the sites."""
    graph, cost = space.graph, space.cost
    prices = [cost.model.layer_cost(layer, layer.in_channels, layer.out_channels) for layer in graph.layers]
    rank = {layer.name: number for number, layer in enumerate(graph.layers)}
    rows = []
    for number, site in enumerate(space.sites):
        producers = graph.group[site.key].producers
        layer = graph.layer[producers[0]]
        rows.append(
            [
                number,
                layer.out_channels,
                layer.in_channels,
                *layer.in_hw,
                layer.stride,
                max(layer.kernel, default=1),
                sum(prices[rank[name]] for name in producers),
                0.0,
                sum(prices[rank[layer.name] + 1 :]),
                0.0,
            ]
        )
    table = np.array(rows, dtype=np.float64)
    largest = table.max(0)
    for name in ("cost", "rest"):
        largest[FEATURES.index(name)] = cost.dense
    scaled = table / np.where(largest > 0, largest, 1.0)
    return np.asarray(scaled.clip(0.0, 1.0), dtype=np.float32)
