"""Axes: what one dimension of a tensor is made of, and which of them are the same.

Every dimension of every tensor has an axis. An axis is free (its indices may go one by one), fixed (it stays, with a
reason), a row-major product of axes (`view(N, T, heads, dim)` of what a linear layer gives), or a sum of axes, one
behind the other (`cat`, and what `chunk` takes apart). Operators say which axes must be the same, and those are
*unified*, as types are in a type checker: a free axis becomes what it is unified with; products are aligned factor by
factor, from the last; sums term by term, from the first; and what is unified with something fixed is fixed.

Arithmetic alone: nothing here knows of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

# ---- what an axis is -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Free:
    """Indices that may go one by one."""


@dataclass(frozen=True)
class Fixed:
    """All indices stay."""

    reason: str


@dataclass(frozen=True)
class Product:
    """Row-major product; the last factor runs fastest. Nested products, and factors of one index, are written out."""

    factors: tuple[Axis, ...]


@dataclass(frozen=True)
class Sum:
    """One behind the other."""

    terms: tuple[Axis, ...]


Form = Free | Fixed | Product | Sum


@dataclass(eq=False)
class Axis:
    """One axis of `size` indices. What it is may become more definite as axes are unified; its size never changes."""

    size: int
    form: Form = field(default_factory=Free)
    same: Axis | None = None
    """What this one was unified with: that one tells what both are."""
    added: bool = False
    """Whether a sum of two tensors made it one axis: a residual stream is."""
    mixed: str = ""
    """The operation that makes each member depend on the others (a norm over it), if there is one."""

    def root(self) -> Axis:
        """The axis that speaks for all that it was unified with."""
        axis = self
        while axis.same is not None:
            if axis.same.same is not None:
                axis.same = axis.same.same
            axis = axis.same
        return axis

    def factors(self) -> tuple[Axis, ...]:
        """The axes that this one is the product of, themselves no products; none for an axis of one index."""
        axis = self.root()
        if isinstance(axis.form, Product):
            return tuple(part for factor in axis.form.factors for part in factor.factors())
        return (axis,) if axis.size != 1 else ()

    def terms(self) -> tuple[Axis, ...]:
        """The axes that this one is the sum of, themselves no sums."""
        axis = self.root()
        if isinstance(axis.form, Sum):
            return tuple(part for term in axis.form.terms for part in term.terms())
        return (axis,)

    def leaves(self) -> Iterator[Axis]:
        """The free and fixed axes that it is made of; one that occurs several times comes each time."""
        axis = self.root()
        match axis.form:
            case Product(parts) | Sum(parts):
                for part in parts:
                    yield from part.leaves()
            case _:
                yield axis

    @property
    def is_fixed(self) -> bool:
        """Whether nothing of it may go."""
        return all(isinstance(leaf.form, Fixed) for leaf in self.leaves())

    def fix_squares(self) -> None:
        """An axis that is multiplied with itself stays: a unit of it has no place of its own in the product."""
        axis = self.root()
        if isinstance(axis.form, (Product, Sum)):
            parts = axis.form.factors if isinstance(axis.form, Product) else axis.form.terms
            seen: set[Axis] = set()
            for part in parts:
                part.fix_squares()
                leaves = set(part.leaves())
                for leaf in leaves & seen if isinstance(axis.form, Product) else ():
                    leaf.fix("it is multiplied with itself")
                seen |= leaves

    def fix(self, reason: str) -> None:
        """Nothing of it may go. What is fixed already keeps its reason."""
        for leaf in self.leaves():
            if isinstance(leaf.form, Free):
                leaf.form = Fixed(reason)

    def mix(self, operation: str) -> None:
        """Its members depend on one another: it may go in part, but what is left changes."""
        for leaf in self.leaves():
            leaf.mixed = leaf.mixed or operation

    def __repr__(self) -> str:
        axis = self.root()
        match axis.form:
            case Free():
                return f"{axis.size}"
            case Fixed():
                return f"={axis.size}"
            case Product(parts):
                return "(" + " x ".join(map(repr, parts)) + ")"
            case Sum(parts):
                return "(" + " + ".join(map(repr, parts)) + ")"


def fixed(size: int, reason: str) -> Axis:
    """An axis that stays."""
    return Axis(size, Fixed(reason))


def product(axes: Sequence[Axis]) -> Axis:
    """The row-major product of axes; of one axis, that axis itself."""
    factors = tuple(part for axis in axes for part in axis.factors())
    if len(factors) == 1:
        return factors[0]
    return Axis(math.prod(axis.size for axis in axes), Product(factors) if factors else Fixed("a single index"))


def total(axes: Sequence[Axis]) -> Axis:
    """The sum of axes, one behind the other; of one axis, that axis itself."""
    terms = tuple(part for axis in axes if axis.size for part in axis.terms())
    if len(terms) == 1:
        return terms[0]
    return Axis(sum(axis.size for axis in axes), Sum(terms) if terms else Fixed("empty"))


_STATING: ContextVar[Callable[[], str]] = ContextVar("stating", default=lambda: "")


@contextmanager
def stated_by(what: Callable[[], str]) -> Iterator[None]:
    """Meanwhile the reasons of axes that cannot be aligned name what says that they are the same."""
    token = _STATING.set(what)
    try:
        yield
    finally:
        _STATING.reset(token)


def _by() -> str:
    what = _STATING.get()()
    return f" by {what}" if what else ""


# ---- which axes are the same -----------------------------------------------------------------------------------------


def unify(one: Axis, other: Axis) -> None:
    """Make two axes of one size the same. What cannot be aligned is fixed, never guessed."""
    one, other = one.root(), other.root()
    if one is other:
        return
    if one.size != other.size:
        raise ValueError(f"axes of {one.size} and {other.size} indices cannot be the same")
    match one.form, other.form:
        case Free(), _:
            _become(one, other)
        case _, Free():
            _become(other, one)
        case Fixed(reason), _:
            other.fix(reason)
        case _, Fixed(reason):
            one.fix(reason)
        case Sum(), Sum():
            _align_sums([*one.terms()], [*other.terms()])
        case _:
            align_products([*one.factors()], [*other.factors()])
    one, other = one.root(), other.root()
    if one is not other and type(one.form) is type(other.form):
        _become(other, one)


def _become(axis: Axis, what: Axis) -> None:
    """From now on `what` speaks for both."""
    axis.same = what
    if axis.added:
        for leaf in what.leaves():
            leaf.added = True
    if axis.mixed:
        what.mix(axis.mixed)


def align_products(ones: list[Axis], others: list[Axis]) -> None:
    """Unify two lists of factors whose products are the same axis, from the last factor on."""
    while True:
        ones, others = ([part for axis in side for part in axis.factors()] for side in (ones, others))
        if not ones or not others:
            return
        one, other = ones[-1], others[-1]
        if one.size == other.size and one.size:
            ones.pop()
            others.pop()
            unify(one, other)
        elif not (_factored(one, other.size) or _factored(other, one.size)):
            sizes = tuple(" x ".join(str(axis.size) for axis in side) for side in (ones, others))
            for axis in (*ones, *others):
                axis.fix(f"{sizes[0]} indices are regrouped as {sizes[1]}{_by()}")
            return


def _factored(axis: Axis, last: int) -> bool:
    """Make an axis that is no product one whose last factor has `last` indices, if it can be."""
    first, rest = divmod(axis.size, last) if last else (0, 1)
    if rest or not first:
        return False
    match axis.form:
        case Free():
            axis.form = Product((_like(axis, first), _like(axis, last)))
        case Fixed(reason):
            axis.form = Product((fixed(first, reason), fixed(last, reason)))
        case _:
            terms = axis.terms()
            if any(term.size % last for term in terms):
                return False
            axis.form = Product((Axis(first), Axis(last)))
            firsts = []
            for term in terms:
                parts = Axis(term.size // last), Axis(last)
                align_products([*term.factors()], [*parts])
                unify(parts[1], axis.form.factors[1])
                firsts.append(parts[0] if parts[0].size > 1 else fixed(1, "a single index"))
            if all(part.size == 1 for part in firsts):
                axis.form.factors[0].fix(f"{len(firsts)} parts are put one behind the other{_by()}")
            else:
                unify(axis.form.factors[0], total(firsts))
    return True


def _like(axis: Axis, size: int) -> Axis:
    """A free part of a free axis."""
    return Axis(size, added=axis.added, mixed=axis.mixed)


def _align_sums(ones: list[Axis], others: list[Axis]) -> None:
    """Unify two lists of terms whose sums are the same axis, from the first term on."""
    while ones and others:
        one, other = ones.pop(0), others.pop(0)
        if one.size != other.size:
            longer, shorter, rest = (one, other, ones) if one.size > other.size else (other, one, others)
            before, after = cut(longer, shorter.size)
            rest.insert(0, after)
            one, other = before, shorter
        unify(one, other)


def cut(axis: Axis, at: int) -> tuple[Axis, Axis]:
    """The axis as a sum of its first `at` indices, 0 < at < size, and the others; what cannot be cut is fixed."""
    axis = axis.root()
    match axis.form:
        case Free():
            parts = _like(axis, at), _like(axis, axis.size - at)
            axis.form = Sum(parts)
            return parts
        case Sum():
            return _cut_sum(axis, at)
        case Product() if at % (inner := axis.size // axis.factors()[0].size) == 0:
            first, *rest = axis.factors()
            before, after = cut(first, at // inner)
            return product([before, *rest]), product([after, *rest])
        case Product():
            axis.fix(f"{axis.size} indices, {axis!r}, are cut apart at {at}{_by()}")
    reason = next(leaf.form.reason for leaf in axis.leaves() if isinstance(leaf.form, Fixed))
    return fixed(at, reason), fixed(axis.size - at, reason)


def _cut_sum(axis: Axis, at: int) -> tuple[Axis, Axis]:
    before: list[Axis] = []
    after = [*axis.terms()]
    while at:
        term = after.pop(0)
        if term.size > at:
            term, rest = cut(term, at)
            after.insert(0, rest)
        before.append(term)
        at -= term.size
    return total(before), total(after)


def piece(axis: Axis, start: int, stop: int) -> Axis:
    """The indices from `start` to `stop` of an axis, an axis of their own."""
    if stop < axis.size:
        axis = cut(axis, stop)[0] if stop else fixed(0, "empty")
    if 0 < start < axis.size:
        axis = cut(axis, start)[1]
    return axis if start < stop else fixed(0, "empty")
