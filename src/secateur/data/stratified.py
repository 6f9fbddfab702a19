"""Drawing a sample in which every class has its share."""

import numpy as np
from numpy.typing import NDArray


def stratified(labels: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` distinct indices into `labels` [N], shuffled; each class has its share, rounded up or down.

    Systematic sampling: order the shuffled images by class, then take them at even steps from a random start.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    start = int(rng.integers(len(labels)))
    places = (np.arange(count) * len(labels) + start) // max(count, 1)
    return rng.permutation(order[places])
