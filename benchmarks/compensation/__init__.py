"""Post-training pruning by others, written from their papers: which units stay, and with what weights.

All cut as Secateur cuts, so that the same plan costs the same, and take the same calibration inputs.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from compensation.corp import corp
from compensation.kwon import kwon
from compensation.magnitude import uniform, wanda
from compensation.task import Block, Task
from compensation.vbp import vbp

RIVALS: dict[str, Callable[[Task], nn.Module]] = {
    "uniform": uniform, "wanda": wanda, "vbp": vbp, "corp": corp, "kwon": kwon,
}  # fmt: skip

__all__ = ["RIVALS", "Block", "Task"]
