"""One walk over the sites: what the agent sees, and what its answers lead to (AMC, section 3.1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from secateur.plan import Plan, Site
from secateur.search.space import SearchSpace

Array = npt.NDArray[np.float32]

FEATURES = ("t", "n", "c", "h", "w", "stride", "k", "cost", "reduced", "rest", "a_tm1")
"""The paper's eleven features; `cost` is FLOPs[t], in the metric of the budget."""
REDUCED, A_TM1 = FEATURES.index("reduced"), FEATURES.index("a_tm1")


class Episode:
    """The state of one walk. Arithmetic only, so that a whole walk fits inside `ask`.

    A state is float32 [11], every feature in [0, 1]. Site t is described by the first layer that makes its
    channels, or has its weights. `reduced` is what the decisions so far save, `rest` what the layers after this
    one cost dense, both as fractions of the dense network.
    """

    def __init__(self, space: SearchSpace, limit: float | None = None) -> None:
        self.space = space
        self.limit = space.limit if limit is None else limit
        self._facts = site_facts(space)
        self._choices = [np.array(site.counts) for site in space.sites]
        self._dense = {site.key: site.width for site in space.sites}
        self._floor = {site.key: site.fewest for site in space.sites}
        self._room = self.limit - space.cost(self._floor)
        self.reset()

    def __len__(self) -> int:
        return len(self.space.sites)

    def reset(self) -> Array:
        """Start again; the first state."""
        self._number = 0
        self._keep_tm1 = 0.0
        self._so_far = dict(self._dense)  # what is not decided yet counts as whole here, and as least there
        self._at_least = dict(self._floor)
        self._saved, self._spare = 0.0, self._room
        return self._state()

    @property
    def least(self) -> float:
        """The smallest fraction that may be kept at the site now shown."""
        site = self.space.sites[self._number]
        return site.keep(site.fewest)

    @property
    def most(self) -> float:
        """The largest fraction that still lets the sites to come meet the budget.

        This is the paper's limit on the action (AMC, algorithm 1), for coupled groups too: the cost of the whole
        network is compared, whichever layers a site touches.
        """
        site = self.space.sites[self._number]
        return site.keep(self._ceiling(site))

    def _ceiling(self, site: Site) -> int:
        """The most units it may keep when the sites after it keep their least."""
        curve = self.space.cost.curve(self._at_least, site.key)
        choices = self._choices[self._number]
        affordable = choices[curve[choices] - curve[site.fewest] <= self._spare]
        return int(affordable[-1]) if len(affordable) else site.fewest

    def step(self, keep: float) -> Array:
        """Decide the site now shown; the next state, or the same facts with all decided at the end.

        `keep` is limited to [least, most] and rounded as the site does.
        """
        site = self.space.sites[self._number]
        return self._decide(site, min(site.count(keep), self._ceiling(site)))

    def _decide(self, site: Site, count: int) -> Array:
        cost = self.space.cost
        least, dense = cost.curve(self._at_least, site.key), cost.curve(self._so_far, site.key)
        self._spare -= least[count] - least[site.fewest]
        self._saved += dense[site.width] - dense[count]
        self._at_least[site.key] = self._so_far[site.key] = count
        self._keep_tm1 = site.keep(count)
        self._number += 1
        return self._state()

    @property
    def done(self) -> bool:
        """Whether every site is decided."""
        return self._number == len(self.space.sites)

    @property
    def keeps(self) -> list[float]:
        """The fractions decided so far."""
        return [site.keep(self._so_far[site.key]) for site in self.space.sites[: self._number]]

    def states_of(self, plan: Plan) -> Array:
        """The states that lead to `plan`, [sites, 11]: what the agent would have seen on the way."""
        states = [self.reset()]
        for site in self.space.sites[:-1]:
            states.append(self._decide(site, site.count(plan[site.key])))
        return np.stack(states).astype(np.float32)

    def _state(self) -> Array:
        state: Array = self._facts[min(self._number, len(self.space.sites) - 1)].copy()
        state[REDUCED] = self._saved / self.space.cost.dense
        state[A_TM1] = self._keep_tm1
        return state


def site_facts(space: SearchSpace) -> Array:
    """The features that no decision changes, [sites, 11], each scaled by its largest value over the sites."""
    graph, cost = space.graph, space.cost
    prices = [float(cost.model.layer_cost(layer, layer.in_channels, layer.out_channels)) for layer in graph.layers]
    rank = {layer.name: number for number, layer in enumerate(graph.layers)}
    rows = []
    for number, site in enumerate(space.sites):
        layers = graph.layers_of(site.key)
        layer = graph.layer[layers[0]]
        rows.append(
            [
                number,
                layer.out_channels,
                layer.in_channels,
                *layer.in_hw,
                layer.stride,
                max(layer.kernel, default=1),
                sum(prices[rank[name]] for name in layers),
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
