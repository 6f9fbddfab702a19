"""Which module's forward is running, told by hooks that are there for a while; and operators named by that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

Place = tuple[str, int, str, int]
"""Of an operation: the module in whose forward it runs, which call of that, the operator, and which run of it there."""


class Scope:
    """Follows the calls of a model's modules between `__enter__` and `__exit__`."""

    def __init__(
        self, model: nn.Module, begin: Callable[[str], None] | None = None, end: Callable[[], None] | None = None
    ) -> None:
        """`begin(name)` and `end()` are called as each forward begins and ends."""
        self._model = model
        self._on_begin, self._on_end = begin or (lambda name: None), end or (lambda: None)
        self._handles: list[Any] = []
        self._within: list[tuple[str, int, Counter[str]]] = []
        self._outside = ("", -1, Counter[str]())
        self._calls: Counter[str] = Counter()

    def __enter__(self) -> Scope:
        """Begin."""
        self._calls.clear()
        self._within.clear()
        for name, module in self._model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(partial(self._begin, name), prepend=True),
                module.register_forward_hook(self._end, always_call=True),
            ]
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, name: str, module: nn.Module, args: object) -> None:
        self._within.append((name, self._calls[name], Counter()))
        self._calls[name] += 1
        self._on_begin(name)

    def _end(self, module: nn.Module, args: object, output: object) -> None:
        if self._within:
            self._within.pop()
            self._on_end()

    @property
    def module(self) -> str:
        """The innermost module that is running; empty for the network itself, or outside."""
        return self._within[-1][0] if self._within else ""

    def place(self, operator: str) -> Place:
        """Where the next run of an operator is: other operators, run more or less often, do not change it."""
        module, call, counts = self._within[-1] if self._within else self._outside
        counts[operator] += 1
        return module, call, operator, counts[operator]


class Scoped(TorchDispatchMode):
    """A watcher of one model's operators that knows, of each, where it runs."""

    def __init__(self, scope: Scope) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scope = scope

    def __enter__(self) -> Self:
        """Begin to follow which module runs."""
        self.scope.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the model as it was."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.scope.__exit__()
