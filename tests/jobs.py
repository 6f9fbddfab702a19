"""A job file with its dense weights beside it, for tests of what a user types."""

from pathlib import Path

import torch

import secateur as sc
from secateur import zoo

DATA = """
[data]
source = "digits"
reward = 100
calibration = 100
"""


def digits_job(folder: Path, top: str, tables: str, name: str = "plain20", width: int = 8) -> Path:
    """`top` are keys before all tables, `tables` the budget and what else there is; the run goes to `folder`/run."""
    torch.manual_seed(0)
    sc.save(zoo.build(name, 10, 1, width=width), folder / "dense.safetensors")
    model = f'[model]\nname = "{name}"\nweights = "dense.safetensors"\noptions = {{ width = {width} }}\n'
    place = folder / "job.toml"
    place.write_text(f'folder = "{folder / "run"}"\n{top}\n{model}{DATA}{tables}\n')
    return place
