"""The rows that a layer turns into outputs: its operand as a matrix, at sampled positions (im2col)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.graph import Layer, Run, matrix_of

MOST_ELEMENTS = 2**27
"""Of one layer's input rows (0.5 GB)."""
MOST_AT_ONCE = 2**25
"""Of those that are held at the same time (0.13 GB)."""


def sample_positions(
    layer: Layer,
    examples: int,
    rows: int = 32,
    fewest: int = 4096,
    matters: Tensor | None = None,
) -> Tensor:
    """Output positions to look at, [examples, per example]: about `rows` for each input feature, `fewest` at least.

    All of a layer's positions where it has no more; else drawn with a seed that is the layer's name. Where `matters`
    [examples or more, positions] is given, of each example only those that matter.
    """
    most = max(layer.positions, 1)
    if matters is not None:
        matters = matters[:examples]
        most = max(int(matters.sum(1).max()), 1)
    wide = layer.features * layer.groups
    wanted = min(max(rows * layer.features, fewest), MOST_ELEMENTS // wide)
    each = min(max(-(-wanted // examples), 1), most)
    if each == most:
        chosen = torch.arange(most).expand(examples, most)
    else:
        generator = torch.Generator().manual_seed(zlib.crc32(layer.name.encode()))
        chosen = torch.randint(most, (examples, each), generator=generator)
    if matters is None:
        return chosen
    first = torch.argsort(~matters, dim=1, stable=True)
    return first.gather(1, chosen % matters.sum(1, keepdim=True).clamp_min(1))


def sample_run(run: Run, among: int, rows: int = 32, fewest: int = 4096) -> Tensor:
    """The same of one run of a layer that runs several times, each on other rows; there are `among` examples in all."""
    layer, matrix = run.layer, matrix_of(run.layer)
    here = math.prod(size or 1 for size in matrix.rows) * math.prod(outputs_of(run) if run.kernel else ())
    few = rows // matrix.runs + 1, fewest // matrix.runs + 1
    return sample_positions(replace(layer, positions=here), among, *few)[: examples_in(run)]


def examples_in(run: Run, x: Tensor | None = None) -> int:
    """How many examples a run's operand, or what is made of it, has rows of."""
    x = run.x if x is None else x
    one = math.prod(x.shape[-len(run.kernel) - 1 :]) if run.kernel else x.shape[-2 if run.left else -1]
    rows = x.numel() // max(one, 1)
    return rows // math.prod(size or 1 for size in matrix_of(run.layer).rows)


def in_pieces(run: Run, examples: int, each: int) -> Iterator[tuple[Run, int, int]]:
    """A run as runs of some of its examples, from one number to before another, that have `MOST_AT_ONCE` elements of
    `each` an example; as it is where examples do not come first."""
    lies = not run.left and matrix_of(run.layer).rows[0] == 0 and len(run.x) % examples == 0
    size = max(MOST_AT_ONCE // max(each, 1), 1) if lies else examples
    if size >= examples:
        yield run, 0, examples
        return
    rows = len(run.x) // examples
    for first in range(0, examples, size):
        last = min(first + size, examples)
        yield replace(run, x=run.x[first * rows : last * rows]), first, last


def operand_rows(run: Run, positions: Tensor, taps: Taps | None = None) -> Tensor:
    """What the weights of a layer see at output `positions` [N, P]: [N * P, groups, features per group].

    Features are ordered as in `weight_of(...).flatten(2)`. A convolution's `taps` for these positions may be given.
    """
    x = operands(run).float()
    if not run.kernel:
        index = torch.arange(len(x), device=x.device)[:, None]
        return x[index, positions.to(x.device)].reshape(-1, 1, x.shape[-1])
    taps = taps or taps_at(run, positions.to(x.device))
    pixels = taps.of(x.flatten(0, 1)).view(positions.numel(), -1, x.shape[2])
    return pixels.transpose(1, 2).reshape(positions.numel(), run.groups, -1)


def output_rows(run: Run, y: Tensor, positions: Tensor) -> Tensor:
    """What a run gives, or anything of their shape, at `positions` [N, P]: [N * P, out channels]."""
    positions = positions.to(y.device)
    index = torch.arange(len(positions), device=y.device)[:, None]
    if not run.kernel:
        return outputs(run, y)[index, positions].flatten(0, 1)
    pictures = _examples_first(run.layer, y, len(run.kernel) + 1)
    place = torch.unravel_index(positions, (pictures.shape[1], *pictures.shape[3:]))
    return pictures.movedim(2, -1)[(index, *place)].flatten(0, 1)


def operands(run: Run) -> Tensor:
    """What the layer multiplies, the examples first: [N, rows, in]; of a convolution [N, pictures, C, *space]."""
    x = run.x.movedim(-2, -1) if run.left else run.x
    return _examples_first(run.layer, x, len(run.kernel) + 1)


def outputs(run: Run, y: Tensor) -> Tensor:
    """All that a run gives, or anything of that shape, [N, positions, out]."""
    if not run.kernel:
        return _examples_first(run.layer, y.movedim(-2, -1) if run.left else y, 1)
    return _examples_first(run.layer, y, len(run.kernel) + 1).movedim(2, -1).flatten(1, -2)


def _examples_first(layer: Layer, x: Tensor, last: int) -> Tensor:
    """The rows of x, which are all but its `last` dimensions, as [N, rows of an example, ...]."""
    sizes = [size or -1 for size in matrix_of(layer).rows]
    lead = x.shape[: x.dim() - last]
    if len(lead) == 1 and len(sizes) == 1:
        return x.unsqueeze(1)
    rows = x.reshape(*sizes, *x.shape[x.dim() - last :]).movedim(sizes.index(-1), 0)
    return rows.flatten(1, len(sizes) - 1) if len(sizes) > 1 else rows.unsqueeze(1)


@dataclass(frozen=True)
class Taps:
    """What outputs of a convolution read of its input: pixels, one after the other."""

    pixel: Tensor
    """Which of the pictures * pixels, [rows * taps]."""
    inside: Tensor | None
    """1, or 0 where nothing is read (padding, between the pixels of a transposed one), [rows * taps, 1]; None where
    that is nowhere."""

    def of(self, x: Tensor) -> Tensor:
        """These pixels of x [pictures, channels, *space], [rows * taps, channels]; nothing else is copied."""
        pixels = x.movedim(1, -1)
        if pixels.is_contiguous():
            found = pixels.flatten(0, -2).index_select(0, self.pixel)
        else:
            found = pixels[torch.unravel_index(self.pixel, pixels.shape[:-1])]
        return found if self.inside is None else found.mul_(self.inside)


def taps_at(run: Run, positions: Tensor) -> Taps:
    """What the outputs at `positions` [N, P] of a convolution read, whose first operand is to run."""
    space = run.x.shape[2:]
    pictures = len(run.x) // len(positions)
    where = torch.unravel_index(positions, (pictures, *outputs_of(run)))
    pixel = torch.arange(len(positions), device=positions.device)[:, None] * pictures + where[0]
    inside = torch.ones_like(pixel, dtype=torch.bool)
    everywhere = True
    for dim, size in enumerate(space):
        tap, found = _along(run, dim, where[dim + 1], size)
        everywhere = everywhere and found is None
        one = [1] * (pixel.dim() - 2)
        pixel = pixel[..., None] * size + tap.view(*positions.shape, *one, -1)
        inside = inside[..., None] & (found if found is not None else tap >= 0).view(*positions.shape, *one, -1)
    return Taps(pixel.flatten(), None if everywhere else inside.float().view(-1, 1))


def _along(run: Run, dim: int, where: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    """Along one dimension: which pixel each tap reads [N, P, taps], and whether there is one (None: always)."""
    tap = torch.arange(run.kernel[dim], device=where.device) * run.dilation[dim]
    stride, padding = run.stride[dim], run.padding[dim]
    if run.transposed:
        found = where[..., None] + padding - tap
        inside = (found % stride == 0) & (found >= 0) & (found < size * stride)
        return (found // stride).clamp(0, size - 1), inside
    found = where[..., None] * stride - padding + tap
    return found.clamp(0, size - 1), (found >= 0) & (found < size) if padding else None


def outputs_of(run: Run) -> list[int]:
    """Sizes of what a convolution gives."""
    space = run.x.shape[2:]
    sizes = zip(space, run.kernel, run.stride, run.padding, run.dilation, run.output_padding, strict=True)
    if run.transposed:
        return [(n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, k, s, p, d, more in sizes]
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sizes]
