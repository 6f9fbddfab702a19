"""What a plan is expected to be worth, from the loss curves of its sites and the rewards told so far.

The elimination gives, for free, by how much the answers change, to the first order, with every count of every site.
What is more than a small change matters more or less than that, and sites act on each other; that is what real rewards
teach. The model is a Gaussian process over plans: a linear part, whose weights say how much each curve matters, and a
smooth part for what no sum over sites can say. To find weights of loss curves by real evaluations is the idea of SPDY
(Frantar and Alistarh, 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist

from secateur.search.space import SearchSpace

Array = npt.NDArray[np.float64]

DOUBT = 0.7
"""Spread of the logarithm of the weights before there are rewards to learn from."""
COMMON = 4.0
"""How much more the weights may move together than each for itself (a variance)."""
LEAST = 0.05
"""No weight falls below this fraction of the mean: to keep more is never expected to hurt."""
FEWEST = 4
"""Rewards before anything is learnt from them."""
REACHES, SMOOTH, NOISE = (0.15, 0.3, 0.6), (0.1, 0.5, 2.0), (0.003, 0.03, 0.2)
"""Choices of the smooth part's reach (root mean square change of the fractions kept), its variance, and the
rewards' noise; the likeliest are taken (marginal likelihood)."""


class Surrogate:
    """A belief about plans, given as counts [plans, sites]; larger is better, in units of no meaning.

    `prior` [sites] are weights that another network taught, up to a common factor; all equal where there are none.
    """

    def __init__(self, space: SearchSpace, prior: Array | None = None) -> None:
        self.curves = [space.loss(site) for site in space.sites]
        self.widths = np.array([site.width for site in space.sites], dtype=np.float64)
        self.prior: Array = np.ones(len(self.curves)) if prior is None else prior
        self.mean: Array = self.prior
        """Weights of the curves, as they are most likely, [sites]."""
        self._root: Array | None = None

    def losses(self, counts: npt.NDArray[np.int64]) -> Array:
        """The loss of every site, [plans, sites]."""
        return np.stack([curve[counts[:, site]] for site, curve in enumerate(self.curves)], axis=1)

    def weighted(self, weights: Array) -> list[Array]:
        """The loss curves as they matter under these weights."""
        return [weight * curve for weight, curve in zip(weights, self.curves, strict=True)]

    def fit(self, counts: npt.NDArray[np.int64], rewards: Array) -> None:
        """Learn from plans and their rewards [plans].

        Only the ranks of the rewards count, so that any scale will do and a hopeless plan is merely last.
        """
        losses = self.losses(counts) * self.prior
        self._centre, spread = losses.mean(0), losses.std(0)
        if len(rewards) < FEWEST or not spread.any():
            return
        self._spread = np.where(spread > 0, spread, spread[spread > 0].mean())  # of a site that never varied: as others
        self._counts, target = counts, _normal_scores(rewards)
        linear, apart = self._linear(counts, counts), self._apart(counts, counts)
        best = -np.inf
        for reach, smooth, noise in product(REACHES, SMOOTH, NOISE):
            kernel = linear + smooth * np.exp(-apart / (2 * reach**2))
            root = np.linalg.cholesky(kernel + noise * np.eye(len(target)))
            half = solve_triangular(root, target, lower=True)
            likelihood = -0.5 * float(half @ half) - float(np.log(root.diagonal()).sum())
            if likelihood > best:
                best, self._reach, self._smooth, self._root = likelihood, reach, smooth, np.asarray(root)
                self._answer = solve_triangular(root, half, trans="T", lower=True)
        slopes = self._between() @ self._standard(counts).T @ self._answer
        self.mean = -self.prior * slopes / self._spread

    def expect(self, counts: npt.NDArray[np.int64]) -> Array:
        """What plans are worth, most likely, [plans]."""
        if self._root is None:
            return np.asarray(-(self.losses(counts) @ self.prior))
        return np.asarray(self._kernel(counts, self._counts) @ self._answer)

    def predict(self, counts: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """Mean [plans] and covariance [plans, plans] of what plans are worth."""
        if self._root is None:
            return self.expect(counts), np.zeros((len(counts), len(counts)))
        across = self._kernel(counts, self._counts)
        half = solve_triangular(self._root, across.T, lower=True)
        return across @ self._answer, self._kernel(counts, counts) - half.T @ half

    def draw(self, counts: npt.NDArray[np.int64], rng: np.random.Generator, daring: float = 1.0) -> Array:
        """What plans may be worth, [plans]: drawn from the belief, its spread times `daring` (Thompson sampling)."""
        mean, covariance = self.predict(counts)
        return np.asarray(mean + daring * _drawn(covariance, rng.standard_normal(len(mean))))

    def sample(self, rng: np.random.Generator) -> Array:
        """Weights as they may well be [sites]."""
        noise = rng.standard_normal(len(self.curves))
        if self._root is None:
            return np.asarray(self.prior * np.exp(DOUBT * noise))
        half = solve_triangular(self._root, self._standard(self._counts) @ self._between(), lower=True)
        covariance = self._between() - half.T @ half
        return self.sound(self.mean - self.prior * _drawn(covariance, noise) / self._spread)

    def sound(self, weights: Array) -> Array:
        """The weights, none of them negative."""
        return np.asarray(np.maximum(weights, LEAST * max(float(weights.mean()), 1e-9)))

    def _standard(self, counts: npt.NDArray[np.int64]) -> Array:
        return np.asarray((self.losses(counts) * self.prior - self._centre) / self._spread)

    def _between(self) -> Array:
        """Prior covariance of the weights: they move together, and each for itself."""
        sites = len(self.curves)
        return np.asarray((np.eye(sites) + np.full((sites, sites), COMMON / sites)) / sites)

    def _linear(self, these: npt.NDArray[np.int64], those: npt.NDArray[np.int64]) -> Array:
        return np.asarray(self._standard(these) @ self._between() @ self._standard(those).T)

    def _apart(self, these: npt.NDArray[np.int64], those: npt.NDArray[np.int64]) -> Array:
        """Mean squared difference of the fractions kept."""
        return np.asarray(cdist(these / self.widths, those / self.widths, "sqeuclidean") / len(self.widths))

    def _kernel(self, these: npt.NDArray[np.int64], those: npt.NDArray[np.int64]) -> Array:
        smooth = self._smooth * np.exp(-self._apart(these, those) / (2 * self._reach**2))
        return self._linear(these, those) + smooth


def _drawn(covariance: Array, noise: Array) -> Array:
    """Standard normal noise given this covariance, by its symmetric root: the only one that rounding does not turn, so
    that another machine's arithmetic draws the same."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors @ (np.sqrt(values.clip(0)) * (vectors.T @ noise)))


def as_rows(plans: Sequence[Mapping[str, int]]) -> npt.NDArray[np.int64]:
    """Counts of plans, each in forward order, as [plans, sites]."""
    return np.array([list(plan.values()) for plan in plans], dtype=np.int64)


def _normal_scores(rewards: Array) -> Array:
    """Each reward replaced by the normal quantile of its rank; equals share their mean rank."""
    values, place, times = np.unique(rewards, return_inverse=True, return_counts=True)
    ranks = np.cumsum(times) - (times - 1) / 2
    normal = NormalDist()
    scores = np.array([normal.inv_cdf((rank - 0.5) / len(rewards)) for rank in ranks])
    return np.asarray(scores[place] if len(values) > 1 else np.zeros(len(rewards)))
