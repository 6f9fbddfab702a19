"""Which module's forward is running, told by hooks that are there for a while; and operators named by that."""

from __future__ import annotations

import dis
import inspect
import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

Place = tuple[str, int, str, int]
"""Of an operation: the module in whose forward it runs, which call of that, the operator and the spot of the forward
that runs it, and which run of it there."""
NOT_USERS = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[1]}{os.sep}")
"""Where torch's own code lies, and this package's."""
CALLS = frozenset({"Module._call_impl", "Module._call_impl.<locals>.inner"})
"""What torch runs to call a module."""


def users_frame(whole: bool = False) -> FrameType | None:
    """The innermost frame of code that is neither torch's nor ours, within the innermost module that is called.

    `whole`: whoever called that, where it has no such code of its own.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith((*NOT_USERS, "<")):
            return frame
        if code.co_filename.startswith("<") and not whole:  # torch.fx writes forwards of its own
            return frame
        if not whole and code.co_qualname in CALLS:
            return None
        frame = frame.f_back
    return None


def spot() -> str:
    """Which call of a forward is running: the function, the line counted from its beginning, and the column."""
    return placed()[0]


def placed() -> tuple[str, int]:
    """The same, and which instruction: that of a loop is the same in each round."""
    frame = users_frame()
    if frame is None:
        return "", -1
    line, column = _positions(frame.f_code)[frame.f_lasti // 2]
    line = frame.f_lineno if line is None else line
    at = "" if column is None else f":{column}"
    return f"{frame.f_code.co_qualname}+{line - frame.f_code.co_firstlineno}{at}", frame.f_lasti


_POSITIONS: dict[int, tuple[CodeType, list[tuple[int | None, int | None]]]] = {}


def _positions(code: CodeType) -> list[tuple[int | None, int | None]]:
    """Line and column of each instruction; Python may have been told to leave out columns."""
    if id(code) not in _POSITIONS:
        _POSITIONS[id(code)] = code, [(line, column) for line, _, column, _ in code.co_positions()]
    return _POSITIONS[id(code)][1]


def has_columns(function: object) -> bool:
    """Whether Python tells the columns of calls in a function."""
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    return code is not None and any(column is not None for _, column in _positions(code))


@lru_cache(maxsize=4096)
def source_of(code: object) -> str:
    """The text of a function; empty where it has none."""
    try:
        return inspect.getsource(code)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""


def where_raised(error: BaseException) -> str:
    """The module whose forward an error comes from, and the line of the user's code, as far as they can be told.

    What the user's code raises itself is told in its words, and what comes of torch is not.
    """
    found, words, trace = "torch's own code", "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith((*NOT_USERS, "<")):
            owner = trace.tb_frame.f_locals.get("self")
            within = f"{type(owner).__name__}, " if isinstance(owner, nn.Module) else ""
            found = f"{within}{Path(code.co_filename).name}:{trace.tb_lineno}"
            raises = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
            words = f": {type(error).__name__} {' '.join(str(error).split())[:100]}".rstrip() if raises else ""
        trace = trace.tb_next
    return found + words


class Scope:
    """Follows the calls of a model's modules between `__enter__` and `__exit__`."""

    def __init__(
        self,
        model: nn.Module,
        begin: Callable[[str, object], None] = lambda name, given: None,
        end: Callable[[object], None] = lambda output: None,
    ) -> None:
        """`begin(name, arguments)` and `end(output)` are called as each forward begins, and after it ended."""
        self._model = model
        self._on_begin, self._on_end = begin, end
        self._handles: list[Any] = []
        self._within: list[tuple[str, int, Counter[str]]] = []
        self._outside = ("", -1, Counter[str]())
        self._calls: Counter[str] = Counter()

    def __enter__(self) -> Scope:
        """Begin."""
        self._calls.clear()
        self._within.clear()
        for name, module in self._model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                continue
            self._handles += [
                module.register_forward_pre_hook(partial(self._begin, name), prepend=True, with_kwargs=True),
                module.register_forward_hook(self._end, always_call=True),
            ]
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, name: str, module: nn.Module, args: object, kwargs: object) -> None:
        self._within.append((name, self._calls[name], Counter()))
        self._calls[name] += 1
        self._on_begin(name, (args, kwargs))

    def _end(self, module: nn.Module, args: object, output: object) -> None:
        if self._within:
            self._within.pop()
            self._on_end(output)

    @property
    def module(self) -> str:
        """The innermost module that is running; empty for the network itself, or outside."""
        return self._within[-1][0] if self._within else ""

    def place(self, operator: str) -> Place:
        """Where the next run of an operator is: what runs more or less often elsewhere does not change it."""
        module, call, counts = self._within[-1] if self._within else self._outside
        operator = f"{operator} {spot()}" if self._within else operator
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
