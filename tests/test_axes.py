"""The algebra of axes: what unified axes are, whatever the order they are unified in."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.graph.axes import Axis, Fixed, align_products, cut, fixed, piece, product, total, unify
from secateur.graph.extent import Extent, site, whole

# ---- unifying --------------------------------------------------------------------------------------------------------


def test_a_free_axis_becomes_what_it_is_unified_with() -> None:
    one, other = Axis(6), product([Axis(2), Axis(3)])
    unify(one, other)
    assert repr(one) == repr(other) == "(2 x 3)"
    unify(one, fixed(6, "the end"))
    assert one.is_fixed
    assert other.is_fixed
    assert {leaf.form.reason for leaf in other.leaves() if isinstance(leaf.form, Fixed)} == {"the end"}


def test_unifying_twice_changes_nothing() -> None:
    one, other = Axis(12), product([Axis(3), Axis(4)])
    for _ in range(2):
        unify(one, other)
        assert [leaf.size for leaf in one.leaves()] == [3, 4]
        assert one.root() is other.root()


def test_other_sizes_are_never_the_same() -> None:
    with pytest.raises(ValueError, match="6 and 8 indices cannot be the same"):
        unify(Axis(6), Axis(8))


def test_heads_are_factors() -> None:
    """A fused projection is taken apart in three, each of heads and dims, whose heads go together."""
    fused = Axis(96)
    query, key, value = (piece(fused, start, start + 32) for start in (0, 32, 64))
    heads = Axis(4)
    for each in (query, key, value):
        align_products([each], [heads, Axis(8)])
    leaves = list(fused.leaves())
    assert [leaf.size for leaf in leaves] == [4, 8] * 3
    assert leaves[0] is leaves[2] is leaves[4] is heads.root()
    assert len(set(leaves)) == 4


def test_a_shuffle_makes_both_parts_one_axis() -> None:
    """[one + other] is viewed as [2, 8] and turned about."""
    one, other = Axis(8), Axis(8)
    rows, columns = Axis(2), Axis(8)
    align_products([total([one, other])], [rows, columns])
    assert one.root() is other.root() is columns.root()
    assert rows.is_fixed, "two parts, one behind the other"
    halves = cut(product([columns, rows]), 8)
    assert [half.size for half in halves] == [8, 8]


def test_what_cannot_be_regrouped_is_fixed_and_says_so() -> None:
    one, other = product([Axis(4), Axis(6)]), product([Axis(6), Axis(4)])
    unify(one, other)
    assert one.is_fixed
    assert other.is_fixed
    reason = next(leaf.form.reason for leaf in one.leaves() if isinstance(leaf.form, Fixed))
    assert reason == "4 x 6 indices are regrouped as 6 x 4"


def test_an_axis_times_itself_stays() -> None:
    one = Axis(5)
    square = product([one, one])
    square.fix_squares()
    assert one.is_fixed
    twice = total([Axis(5)] * 2)
    twice.fix_squares()
    assert not twice.is_fixed


@st.composite
def statements(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    """Of eight axes of 24 indices: which are the same, products, parts of sums, or fixed."""
    kinds = st.sampled_from(["same", "same", "product", "sum", "fixed"])
    places, choices = st.integers(0, 7), st.sampled_from([2, 3, 4, 6, 8, 12])
    return draw(st.lists(st.tuples(kinds, places, places, choices), max_size=8))


def play(said: list[tuple[str, int, int, int]]) -> list[Axis]:
    axes = [Axis(24) for _ in range(8)]
    for kind, one, other, number in said:
        if kind == "same":
            unify(axes[one], axes[other])
        elif kind == "product":
            align_products([axes[one]], [Axis(24 // number), Axis(number)])
        elif kind == "sum":
            unify(axes[one], total([Axis(number), Axis(24 - number)]))
        else:
            axes[one].fix("told so")
    return axes


@given(statements())
def test_sizes_always_work_out(said: list[tuple[str, int, int, int]]) -> None:
    for axis in play(said):
        assert axis.size == 24
        assert math.prod(factor.size for factor in axis.factors()) == 24
        assert sum(term.size for term in axis.terms()) == 24


@given(statements())
def test_whatever_was_said_twice_was_said_once(said: list[tuple[str, int, int, int]]) -> None:
    once, twice = play(said), play([*said, *[s for s in said if s[0] == "same"]])
    for one, other in zip(once, twice, strict=True):  # what a fixed axis is made of says nothing
        assert one.is_fixed == other.is_fixed
        assert one.is_fixed or repr(one) == repr(other)


@given(statements(), st.randoms())
def test_what_is_the_same_does_not_depend_on_the_order(said: list[tuple[str, int, int, int]], chance: object) -> None:
    said = [each for each in said if each[0] in ("same", "fixed")]
    other = said[:]
    chance.shuffle(other)  # type: ignore[attr-defined]
    one, two = play(said), play(other)
    for first in range(8):
        assert one[first].is_fixed == two[first].is_fixed
        for second in range(8):
            assert (one[first].root() is one[second].root()) == (two[first].root() is two[second].root()) or one[
                first
            ].is_fixed


# ---- what is left ----------------------------------------------------------------------------------------------------


def extents(keys: int = 3) -> st.SearchStrategy[Extent]:
    """Random ones of a few sites, none of them twice in one product."""

    def build(leaves: list[int]) -> Extent:
        parts = [site(f"site{number % keys}", 2 + number % keys) if number else whole(2) for number in leaves]
        kind = "sum" if len({part.key for part in parts if part.key}) < sum(bool(p.key) for p in parts) else "product"
        length = math.prod(p.length for p in parts) if kind == "product" else sum(p.length for p in parts)
        return Extent(length, kind, parts=tuple(parts)) if len(parts) > 1 else parts[0]  # type: ignore[arg-type]

    return st.lists(st.integers(0, keys), min_size=1, max_size=4).map(build)


@given(extents(), st.randoms())
def test_what_is_left_is_what_brute_force_leaves(extent: Extent, chance: object) -> None:
    kept = {}
    for key in extent.groups:
        width = len(extent.index(key))
        count = chance.randint(1, width)  # type: ignore[attr-defined]
        kept[key] = np.sort(np.array(chance.sample(range(width), count)))  # type: ignore[attr-defined]
    gone = np.zeros(extent.length, dtype=bool)
    for key, units in kept.items():
        for unit, places in enumerate(extent.index(key)):
            gone[places] |= unit not in units
    assert extent.alive(kept).tolist() == np.flatnonzero(~gone).tolist()
    assert extent.size({key: len(units) for key, units in kept.items()}) == (~gone).sum()
    assert extent.size({}) == extent.length == len(extent.alive({}))
