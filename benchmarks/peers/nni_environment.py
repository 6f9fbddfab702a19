"""An environment of its own for NNI 2.10.1: it needs older numpy, pandas and setuptools than Secateur does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "torch==2.13.0",
    "nni==2.10.1",
    "tensorboard",
    "setuptools>=77.0.3,<80",  # older than 80: NNI imports pkg_resources; not so old that torch refuses it
    "typeguard<3",  # NNI calls it with the arguments of version 2
    "numpy<2",
    "pandas<3",
    "pillow",
)
WORKS = "import PIL, tensorboard, torch; import nni.algorithms.compression.v2.pytorch.pruning"


def environment(folder: Path) -> Path:
    """The python of NNI's environment in `folder`, built there with pip if what is there cannot import NNI.

    Takes some minutes and 2 GB the first time. Raises CalledProcessError when pip fails.
    """
    python = folder / "bin" / "python"
    if not (python.exists() and _works(python)):
        anew = ["--clear"] if (folder / "pyvenv.cfg").exists() else []  # half an environment; no other folder's files
        subprocess.run([sys.executable, "-m", "venv", *anew, str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        subprocess.run([str(python), "-W", "ignore", "-c", WORKS], check=True)
    return python


def _works(python: Path) -> bool:
    tried = subprocess.run([str(python), "-W", "ignore", "-c", WORKS], capture_output=True, check=False)
    return tried.returncode == 0
