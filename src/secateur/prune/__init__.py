"""HOW A PLAN IS APPLIED: channel choice, cutting, least-squares refit, proof."""

from secateur.prune.bypass import Bypassed, bypass
from secateur.prune.calibration import Batch, Calibration
from secateur.prune.cut import Cutter, set_attributes, set_sizes, set_tensor, ties
from secateur.prune.entry import Picking, pick
from secateur.prune.fold import fold_norms
from secateur.prune.order import Criterion, Order, Orders
from secateur.prune.proof import prove
from secateur.prune.pruner import Pruner, PruneSettings, counts_of_plan, shaped
from secateur.prune.recalibrate import disagreement, recalibrate
from secateur.prune.restate import Restated, layers_of, restate
from secateur.prune.sequence import SequentialRefit

__all__ = [
    "Batch",
    "Bypassed",
    "Calibration",
    "Criterion",
    "Cutter",
    "Order",
    "Orders",
    "Picking",
    "PruneSettings",
    "Pruner",
    "Restated",
    "SequentialRefit",
    "bypass",
    "counts_of_plan",
    "disagreement",
    "fold_norms",
    "layers_of",
    "pick",
    "prove",
    "recalibrate",
    "restate",
    "set_attributes",
    "set_sizes",
    "set_tensor",
    "shaped",
    "ties",
]
