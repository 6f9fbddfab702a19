"""`python -m contestants CONTESTANT LIBRARY NETWORK`: one look, as a line of JSON; the last line that is printed."""

from __future__ import annotations

import importlib
import json
import sys
import warnings

import torch


def main() -> None:
    """Build the network, look at it, say what was found."""
    contestant, library, network = sys.argv[1:]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    case = importlib.import_module(f"architectures.{library}").CASES[network]()
    found = importlib.import_module(f"contestants.{contestant}").look(case)
    print("\n" + json.dumps({"task": case.task, **found}))


if __name__ == "__main__":
    main()
