"""HOW A PLAN IS APPLIED: channel choice, cutting, least-squares refit, proof."""

from secateur.prune.calibration import Batch, Calibration
from secateur.prune.cut import Cutter, Kept, resize, set_tensor
from secateur.prune.entry import PICKED, Picking, pick
from secateur.prune.fold import fold_norms
from secateur.prune.order import Criterion, Order, Orders
from secateur.prune.proof import prove
from secateur.prune.pruner import Pruner, PruneSettings, counts_of_plan, shaped
from secateur.prune.recalibrate import disagreement, recalibrate
from secateur.prune.sequence import SequentialRefit

__all__ = [
    "PICKED",
    "Batch",
    "Calibration",
    "Criterion",
    "Cutter",
    "Kept",
    "Order",
    "Orders",
    "Picking",
    "PruneSettings",
    "Pruner",
    "SequentialRefit",
    "counts_of_plan",
    "disagreement",
    "fold_norms",
    "pick",
    "prove",
    "recalibrate",
    "resize",
    "set_tensor",
    "shaped",
]
