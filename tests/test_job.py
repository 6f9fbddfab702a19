"""Job files: every key is a field, and every mistake is one error that names it."""

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from networks import build

import secateur as sc
from secateur.job import FOR_RANGES, SEARCHERS, parse_job, read_job
from secateur.job.claim import describe
from secateur.job.compress import Run
from secateur.job.materials import materials
from secateur.job.words import REWARDS, DataJob, FineTuneJob, Job, ModelJob, ReportJob
from secateur.search import RULES, Conditioned, SearchSpace

GOOD = """
trials = 5
[model]
name = "resnet20"
options = { width = 4 }
[data]
source = "digits"
reward = 100
calibration = 100
[budget]
macs = 0.5
[searcher]
kind = "ddpg"
seed = 3
warmup = 2
[space]
min_keep = 0.2
leave = ["layer3.*"]
[finetune]
epochs = 2
lr = 1
"""


def write(folder: Path, text: str) -> Path:
    place = folder / "job.toml"
    place.write_text(text)
    return place


def test_keys_reach_the_dataclasses(tmp_path):
    job = read_job(write(tmp_path, GOOD))
    assert job.searcher == sc.DDPG(seed=3, warmup=2)
    assert job.space == sc.SpaceSettings(min_keep=0.2, leave=("layer3.*",))
    assert job.budget == sc.Budget(macs=0.5)
    assert job.finetune.lr == 1.0
    assert job.folder == "runs/job"


PAGE = (Path(__file__).parents[1] / "docs" / "job.md").read_text()


def test_the_job_on_the_page_has_the_defaults(tmp_path):
    said = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
    needed = {"model": said["model"], "data": {"source": said["data"]["source"]}, "budget": said["budget"]}
    assert parse_job(said, tmp_path / "job.toml") == parse_job(needed, tmp_path / "job.toml")


def test_the_page_names_every_key():
    tables = (Job, ModelJob, DataJob, FineTuneJob, ReportJob, sc.SpaceSettings, sc.PruneSettings, sc.Budget)
    for kind in (*tables, *REWARDS.values()):
        for key in fields(kind):
            assert re.search(rf"\b{key.name}\b", PAGE), f"docs/job.md does not name {key.name} of {kind.__name__}"
    for name, kind in SEARCHERS.items():
        (row,) = re.findall(rf"^\|.*`{name}`.*", PAGE, re.MULTILINE)
        for key in fields(kind):
            given = f"{key.name}" if key.default is None else f"{key.name} = {json.dumps(key.default)}"
            assert key.name == "seed" or f"`{given}`" in row, f"docs/job.md does not say `{given}` of {name}"


def test_a_described_job_reads_back_the_same(tmp_path):
    job = read_job(write(tmp_path, GOOD))
    assert parse_job(json.loads(json.dumps(describe(job))), tmp_path) == job


def test_materials_are_what_the_words_say(tmp_path):
    stuff = materials(read_job(write(tmp_path, GOOD)))
    assert stuff.example.shape == (1, 1, 8, 8)
    assert stuff.model(stuff.example).shape == (1, 10)
    assert len(stuff.reward[0]) == len(stuff.calibration) == 100


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("macs = 0.5", "flops = 0.5", "flops"),
        ("macs = 0.5", "macs = 0.5\nparams = 0.5", "exactly one"),
        ("macs = 0.5", 'macs = "half"', "a number"),
        ("macs = 0.5", "macs = -1", "fraction in"),
        ("trials = 5", "trials = 0", "1 or more"),
        ("trials = 5", "trails = 5", "trails"),
        ("trials = 5", "trials = true", "a whole number"),
        ('kind = "ddpg"', 'kind = "sarsa"', "sarsa"),
        ("warmup = 2", "warmups = 2", "warmups"),
        ("min_keep = 0.2", "min_keep = 2.0", "min_keep"),
        ('leave = ["layer3.*"]', 'leave = "layer3.*"', "give a list"),
        ('[data]\nsource = "digits"', "[data]", "source"),
        ("[model]", "[modell]", "modell"),
        ("epochs = 2", 'precision = "int8"', "float32"),
        ("lr = 1", "lr = inf", "finite"),
        ("lr = 1", "lr = -0.1", "lr is above 0"),
        ("lr = 1", "temperature = 0", "temperature and clip"),
        ("lr = 1", "batch = 1", "2 or more"),
        ("reward = 100", "reward = 1", "some hundreds"),
        ("calibration = 100", "calibration = 0", "some hundreds"),
        ("lr = 1", "seed = -1", "0 or more"),
        ("seed = 3", "seed = -1", "0 or more"),
        ('kind = "ddpg"', 'kind = ["ddpg"]', "is none of"),
        ("[model]", "modules = 3\n[model]", "a text"),
        ("lr = 1", '[report]\nrivals = ["uniform", "uniform"]', "twice"),
        ("macs = 0.5", 'macs = [0.3, 0.7]\n[report]\nrivals = ["random"]', "serves no range"),
        ("lr = 1", '[reward]\nkind = ["composite"]', "give a text"),
        ("lr = 1", '[reward]\nkind = "breaks_when_imported:reward"', "cannot be imported: RuntimeError: broken"),
        ("trials = 5", "trials = = 5", "TOML"),
    ],
)
def test_each_mistake_is_named(old, new, says, tmp_path):
    (tmp_path / "breaks_when_imported.py").write_text("raise RuntimeError('broken')\n")
    assert old in GOOD
    with pytest.raises(sc.JobError, match=says):
        read_job(write(tmp_path, GOOD.replace(old, new)))


def test_a_searcher_is_a_table(tmp_path):
    with pytest.raises(sc.JobError, match="give a table"):
        parse_job({"searcher": "ddpg"}, tmp_path / "job.toml")


def test_who_serves_a_range_is_said_rightly():
    space = SearchSpace(sc.inspect(*build("plain")), sc.Budget(macs=(0.3, 0.7)))
    for name, kind in SEARCHERS.items():
        if name not in RULES:
            assert isinstance(kind().start(space), Conditioned) == (name in FOR_RANGES)


def test_a_missing_file_and_a_wrong_factory_are_named(tmp_path):
    with pytest.raises(sc.JobError, match="cannot read"):
        read_job(tmp_path / "none.toml")
    for name, says in (("resnet21", "resnet21"), ("no.such:thing", "no.such:thing"), ("json:dumps", "cannot be built")):
        job = read_job(write(tmp_path, GOOD.replace('"resnet20"', f'"{name}"')))
        with pytest.raises(sc.JobError, match=says):
            materials(job)


def test_a_factory_beside_the_caller_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_network.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    text = GOOD.replace('"resnet20"', '"my_network:make"').replace("options = { width = 4 }", "")
    assert len(materials(read_job(write(tmp_path, text))).model) == 3


def test_auxiliary_heads_are_refused_before_anything_is_searched(tmp_path, monkeypatch):
    (tmp_path / "two_heads.py").write_text(
        "from torch import nn\n"
        "class Heads(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        y = self.head(x.flatten(1))\n"
        "        return (y, y) if self.training else y\n"
    )
    monkeypatch.chdir(tmp_path)
    text = GOOD.replace('"resnet20"', '"two_heads:Heads"').replace("options = { width = 4 }", "")
    with pytest.raises(sc.DataError, match="in training the network answers by a tuple"):
        materials(read_job(write(tmp_path, text)))


def test_a_factory_beside_the_job_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "beside_the_job.py").write_text(
        "from torch import nn\n"
        "def make(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, classes))\n"
    )
    monkeypatch.chdir("/")
    text = GOOD.replace('"resnet20"', '"beside_the_job:make"').replace("width = 4", "classes = 10")
    assert len(materials(read_job(write(tmp_path, text))).model) == 3
    with pytest.raises(sc.JobError, match="has 10 classes, but the network tells only 9 apart"):
        materials(read_job(write(tmp_path, text.replace("classes = 10", "classes = 9"))))
    with pytest.raises(sc.JobError, match=r"the network tells 1000 apart and has \d of 32 right, no more than a guess"):
        materials(read_job(write(tmp_path, text.replace("classes = 10", "classes = 1000"))))


def test_a_prior_and_modules_are_found_from_the_job_file(tmp_path):
    text = GOOD.replace("warmup = 2", 'warmup = 2\nprior = "taught.safetensors"')
    job = read_job(write(tmp_path, text))
    assert job.searcher.prior == str(tmp_path / "taught.safetensors")
    assert job.modules == str(tmp_path)


def test_a_network_without_its_weights_is_refused(tmp_path, monkeypatch):
    with pytest.raises(sc.JobError, match=r"\[model\] weights: name the file"):
        Run(read_job(write(tmp_path, f'folder = "{tmp_path / "run"}"\n{GOOD}')), "").materials  # noqa: B018
    (tmp_path / "untrained.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def made():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))\n"
        "def known():\n    torch.manual_seed(0)\n    return made()\n"
    )
    text = f'folder = "{tmp_path / "run"}"\n{GOOD}'.replace("options = { width = 4 }", "")
    with pytest.raises(sc.JobError, match="other weights each time"):
        Run(read_job(write(tmp_path, text.replace('"resnet20"', '"untrained:made"'))), "").materials  # noqa: B018
    assert Run(read_job(write(tmp_path, text.replace('"resnet20"', '"untrained:known"'))), "").materials
    with pytest.raises(sc.JobError, match=r"neither package\.module:factory nor in the zoo"):
        materials(read_job(write(tmp_path, text.replace('"resnet20"', '"untrained.known"'))))


def test_what_the_network_cannot_do_is_said_before_the_search(tmp_path):
    (tmp_path / "odd_networks.py").write_text(
        "from torch import nn\n"
        "def narrow():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))\n"
        "def broken():\n"
        "    raise KeyError('weights')\n"
        "class Picky(nn.Linear):\n"
        "    def forward(self, x, targets=None):\n"
        "        if self.training and targets is None:\n"
        "            raise ValueError('targets should not be none')\n"
        "        return super().forward(x.flatten(1))\n"
        "def picky():\n"
        "    return nn.Sequential(Picky(64, 10))\n"
        "def image():\n"
        "    return nn.Conv2d(1, 10, 8)\n"
    )
    text = GOOD.replace("options = { width = 4 }", "")
    for name, says in (
        ("narrow", r"does not run on the images of \[data\] digits, \[1, 8, 8\]"),
        ("broken", "KeyError"),
        ("picky", "cannot be fine-tuned: in training it fails .* targets should not be none"),
        ("image", r"for logits \[2, 10, 1, 1\] they have to be class indices"),
    ):
        with pytest.raises(sc.SecateurError, match=says):
            materials(read_job(write(tmp_path, text.replace('"resnet20"', f'"odd_networks:{name}"'))))
    with pytest.raises(sc.DataError, match="no module 'layer9'"):
        materials(read_job(write(tmp_path, GOOD.replace("lr = 1", 'features = ["layer9"]'))))
