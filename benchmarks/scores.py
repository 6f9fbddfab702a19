"""Which score ranks plans as the test accuracy of the finished network does? ResNet-56, CIFAR-10, half the MACs.

The network knows its training images by heart, so that top-1 on them flatters plans that fail on others. Here are the
hand-made rules and random plans of many spreads: each as a trial's candidate, scored in every way on the first N
reward images, as they are or shifted and mirrored, or on a thousand test images, which the weights never saw; and
pruned for good, on the other test images. Spearman's rank correlation of each score with the top-1 there, over all
plans and over the better half; and how many standard errors part two plans, example by example, which is what racing
goes by. Takes 20 minutes; interrupted, it resumes. `--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import record
import shared_assets
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.answers import cosine
from secateur.data import TrainBatches, split
from secateur.graph import as_inputs
from secateur.prune import Calibration, Pruner
from secateur.search import RULES, SearchSpace

Values = npt.NDArray[np.float64]

SPREADS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Standard deviations of random plans about the uniform one."""
NUMBERS = (125, 250, 500, 1000, 5000)
UNSEEN = 1000
"""Test images that score plans; the others tell how good they are."""
SCORES = ("top-1", "cross-entropy", "divergence", "agreement")
FORMS = ("plain", "augmented", "unseen")
NEEDS_LABELS = ("top-1", "cross-entropy")


def main() -> None:
    """Answer with every plan, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    quick = parser.parse_args().quick
    depth, each, images = (20, 1, 500) if quick else (56, 5, 5000)
    runs = record.HERE / "runs" / ("scores_quick" if quick else "scores")
    runs.mkdir(parents=True, exist_ok=True)
    plans = len(RULES) + len(SPREADS) * each
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        for done in pool.imap_unordered(answer_all, [(depth, images, number, runs) for number in range(plans)]):
            print(done, flush=True)
    answers = [torch.load(runs / f"{number}.pt", weights_only=True) for number in range(plans)]
    rows = table(answers, dense_answers(depth, images), images)
    tops = [test_top1(one) for one in answers]
    record.show(f"ResNet-{depth}, {plans} plans, test top-1 from {min(tops):.2f} to {max(tops):.2f}", rows)
    if not quick:
        print(f"written to {record.write('scores', figures(rows), rows).relative_to(record.HERE.parent)}")


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Correlations of the scores, by number of images."""
    names = [f"{row['score'].replace('-', '')}_{row['images']}_{row['of']}" for row in rows]
    return {name: row["rank correlation"] for name, row in zip(names, rows, strict=True)}


# ---- answers ---------------------------------------------------------------------------------------------------------


def pictures(depth: int, images: int) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor], Tensor]:
    """The network; the reward images as they are, augmented, and unseen ones; their labels; and calibration images."""
    dataset = shared_assets.cifar10()
    parts = split(dataset, 5000, 1500, seed=0)
    plain, labels = shared_assets.training_images(dataset, parts.reward[:images])
    batches = TrainBatches(plain, torch.arange(len(plain)), len(plain), seed=0)
    shifted, order = next(iter(batches))
    unseen, their_labels = (each[:UNSEEN] for each in shared_assets.test_images(dataset))
    forms = {"plain": plain, "augmented": shifted[order.argsort()], "unseen": unseen}
    answers = {"plain": labels, "augmented": labels, "unseen": their_labels}
    calibration = shared_assets.training_images(dataset, parts.calibration)[0]
    return shared_assets.resnet(depth), forms, answers, calibration


def dense_answers(depth: int, images: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits of the dense network on every form of the images, and the labels."""
    network, forms, labels, _ = pictures(depth, images)
    return {name: (logits(network, x), labels[name]) for name, x in forms.items()}


def test_top1(answers: dict[str, Tensor]) -> float:
    """Of the network that a plan leads to, in %, on the test images that score no plan."""
    return 100 * float(answers["right"][UNSEEN:].double().mean())


def logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network(piece.contiguous(memory_format=torch.channels_last)) for piece in images.split(100)])


_materials: dict[int, Any] = {}


def answer_all(job: tuple[int, int, int, Path]) -> str:
    """One plan: its candidate's logits, and which test images the network that it leads to has right."""
    depth, images, number, runs = job
    place = runs / f"{number}.pt"
    if place.exists():
        return f"{number} kept"
    torch.set_num_threads(1)
    if depth not in _materials:
        network, forms, _, calibration = pictures(depth, images)
        graph = sc.inspect(network, calibration[:1])
        pruner = Pruner(network, graph, Calibration(as_inputs(calibration)))
        _materials[depth] = forms, pruner, SearchSpace(graph, sc.Budget(macs=0.5))
    forms, pruner, space = _materials[depth]
    counts = space.counts(plan(space, number))
    candidate = pruner.candidate(counts).to(memory_format=torch.channels_last)
    found = {name: logits(candidate, x) for name, x in forms.items()}
    test, labels = shared_assets.test_images(shared_assets.cifar10())
    small = pruner.final(counts).to(memory_format=torch.channels_last)
    found["right"] = logits(small, test).argmax(1) == labels
    torch.save(found, place)
    return f"{number}: {test_top1(found):.2f}"


def plan(space: SearchSpace, number: int) -> sc.Plan:
    """The hand-made rules first, then plans scattered about the uniform one, wider and wider."""
    sites = len(space.sites)
    if number < len(RULES):
        return space.fit([*RULES.values()][number](sites))
    rng = np.random.default_rng(number)
    spread = SPREADS[number % len(SPREADS)]
    return space.fit(np.clip(0.5 + rng.normal(0, spread, sites), 0.1, 1.0).tolist())


# ---- scores ----------------------------------------------------------------------------------------------------------


def values(score: str, found: Tensor, wanted: Tensor, labels: Tensor) -> Values:
    """What each example gives to a score."""
    if score == "top-1":
        each = (found.argmax(1) == labels).double()
    elif score == "cross-entropy":
        each = -F.cross_entropy(found, labels, reduction="none")
    elif score == "divergence":
        pair = F.log_softmax(found, 1), F.log_softmax(wanted, 1)
        each = -F.kl_div(*pair, reduction="none", log_target=True).sum(1)
    else:
        each = cosine(found, wanted)
    return np.asarray(each.double().numpy())


def table(
    answers: list[dict[str, Tensor]], dense: dict[str, tuple[Tensor, Tensor]], images: int
) -> list[dict[str, Any]]:
    """A row a score, a form of the images, and a number of them."""
    test = np.array([test_top1(one) for one in answers])
    better = test > np.median(test)
    rows = []
    for score in SCORES:
        for form in ("plain", "unseen") if score in NEEDS_LABELS else FORMS:
            whole = [values(score, one[form], *dense[form]) for one in answers]
            for number in (number for number in NUMBERS if number <= min(images, len(whole[0]))):
                few = np.array([each[:number] for each in whole])
                means = few.mean(1)
                rows.append(
                    {
                        "score": score,
                        "of": form,
                        "images": number,
                        "rank correlation": spearman(means, test),
                        "of the better half": spearman(means[better], test[better]),
                        "standard errors apart": float(np.median([apart(a, b) for a, b in combinations(few, 2)])),
                    }
                )
    return rows


def spearman(one: Values, other: Values) -> float:
    """Rank correlation; equals share their mean rank."""
    return float(spearmanr(one, other).statistic)


def apart(one: Values, other: Values) -> float:
    """How many standard errors lie between two plans, compared example by example."""
    difference = one - other
    return float(abs(difference.mean()) / max(difference.std() / len(difference) ** 0.5, 1e-12))


if __name__ == "__main__":
    main()
