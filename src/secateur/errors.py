"""Everything that Secateur raises on purpose.

    SecateurError
    ├── TraceError        the model cannot be traced, or nothing of it can be pruned
    ├── BudgetError       the budget is malformed, or no plan can meet it
    ├── PlanError         a plan does not fit the network it is applied to
    ├── EvaluationError   the caller's `evaluate` gave no usable score
    ├── StudyError        a search cannot start, continue or give a result
    ├── CheckpointError   a file cannot be read, written, or does not fit the model
    ├── ExportError       a network cannot be converted for a runtime, or the runtime is not installed
    │   └── ExportMismatch    it was converted, but answers differently there
    ├── DataError         a data set cannot be read
    └── JobError          a job file is malformed

Each message says what is wrong, where, and what to do next. The command line prints it as one line.
"""


class SecateurError(Exception):
    """The root: catch it to catch whatever Secateur reports about its input."""


class TraceError(SecateurError):
    """The model cannot be traced, or nothing of it can be pruned."""


class BudgetError(SecateurError):
    """The budget is malformed, or no plan can meet it."""


class PlanError(SecateurError):
    """A plan does not fit the network it is applied to."""


class EvaluationError(SecateurError):
    """The caller's `evaluate` gave no usable score."""


class StudyError(SecateurError):
    """A search cannot start, continue or give a result."""


class CheckpointError(SecateurError):
    """A file cannot be read or written, or does not fit the model."""


class ExportError(SecateurError):
    """A network cannot be converted for a runtime, or the runtime is not installed."""


class ExportMismatch(ExportError):
    """A converted network answers differently from the one in PyTorch."""


class DataError(SecateurError):
    """A data set cannot be read."""


class JobError(SecateurError):
    """A job file is malformed."""
