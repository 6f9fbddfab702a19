"""Latency tables: made here by one command, or elsewhere by two."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import digits_job
from networks import build

import secateur as sc
from secateur import bundle
from secateur.cli import main
from secateur.commands.profiling import How, make_bundle, make_table
from secateur.cost import LayerTable, NetworkCost, energy_model, latency_model
from secateur.cost.analytic import picture_bytes
from secateur.runtimes.sessions import meters, random_inputs
from secateur.runtimes.sessions import profile as profile_here
from secateur.runtimes.sessions.grid import Grid, Thinned
from secateur.runtimes.sessions.profile import fitted
from secateur.search import SearchSpace
from secateur.sparse import BlockSparseLinear


def space_of(name: str) -> tuple[torch.nn.Module, torch.Tensor, SearchSpace]:
    model, example = build(name)
    return model, example, SearchSpace(sc.inspect(model, example), sc.Budget(macs=1.0))


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point of a grid is a file to write; two on each side show what five do."""
    monkeypatch.setattr(bundle, "FRACTIONS", (0.5, 1.0))
    monkeypatch.setattr(bundle, "NETWORKS", 3)


def ignore(*_: object) -> None:
    pass


def check(table: dict, space: SearchSpace, place: Path) -> None:
    """The table is whole, prices the network, and serves a search."""
    place.write_text(json.dumps(table))
    model = latency_model(str(place))
    assert isinstance(model, LayerTable)
    cost = NetworkCost(space.graph, model)
    assert cost.dense > 0
    for site in space.sites:
        assert (np.diff(cost.curve({}, site.key)) >= -1e-12).all()
    assert all(ms > 0 for grid in model.layers for row in grid.cost for ms in row)
    searched = SearchSpace(space.graph, sc.Budget(macs=0.9), prices=[model])
    assert searched.dense.latency_ms == pytest.approx(cost.dense)


@pytest.mark.parametrize("name", ["plain", "depthwise", "grouped", "conv1d"])
def test_a_table_of_this_machine(name: str, tmp_path: Path) -> None:
    model, example, space = space_of(name)
    check(make_table(model, example, space, How("onnxruntime")), space, tmp_path / "table.json")


def test_a_table_of_a_network_that_is_called_by_names(tmp_path: Path) -> None:
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

        def forward(self, *, x: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": self.other(self.one(x).relu() * mask)}

    model, example = Named(), {"x": torch.randn(2, 8), "mask": torch.ones(2, 1)}
    space = SearchSpace(sc.inspect(model, example), sc.Budget(macs=1.0))
    check(make_table(model, example, space, How("onnxruntime")), space, tmp_path / "table.json")


def test_a_bundle_makes_its_table_with_numpy_and_the_runtime_alone(tmp_path: Path) -> None:
    model, example, space = space_of("plain")
    bundle = tmp_path / "bundle"
    make_bundle(model, example, space, "onnxruntime", bundle, ignore)
    (bundle / "torch.py").write_text("raise SystemExit('torch was imported')")
    (bundle / "secateur.py").write_text("raise SystemExit('secateur was imported')")
    command = [sys.executable, "-m", "sessions.profile", ".", "-o", "table.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(json.loads((bundle / "table.json").read_text()), space, tmp_path / "table.json")


def test_every_file_and_network_of_a_bundle_is_there(tmp_path: Path) -> None:
    model, example, space = space_of("plain")
    make_bundle(model, example, space, "onnxruntime", tmp_path, ignore)
    bundle = json.loads((tmp_path / "bundle.json").read_text())
    files = [file for layer in bundle["layers"] for row in layer["files"] for file in row]
    assert all((tmp_path / file).exists() for file in (*files, *(each["file"] for each in bundle["networks"])))
    dense = bundle["networks"][0]["layers"]
    assert [counts[1:3] for counts in dense] == [[x.in_channels, x.out_channels] for x in space.graph.layers]
    assert all(low <= high for each in bundle["networks"] for low, high in zip(each["layers"], dense, strict=True))


def test_sessions_import_nothing_of_ours_and_no_torch() -> None:
    import secateur.runtimes.sessions as sessions

    for file in Path(sessions.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(str(node.module))
            assert not [name for name in names if name.startswith("secateur")], file
            if "executorch" not in file.name:
                assert not [name for name in names if name.startswith("torch")], file


def test_sums_of_layers_are_corrected_by_whole_networks() -> None:
    rng = np.random.default_rng(0)
    alone = rng.uniform(0.5, 2.0, (30, 3))
    scales, fixed = fitted(alone, alone @ [0.4, 0.8, 1.2] + 0.3)
    assert scales == pytest.approx([0.4, 0.8, 1.2], abs=0.05)
    assert fixed == pytest.approx(0.3, abs=0.1)
    few = alone[:2]
    assert fitted(few, 0.8 * few.sum(1))[0] == pytest.approx([0.8] * 3, rel=0.02), "nothing speaks for other scales"
    scales, fixed = fitted(alone, 1.5 * alone.sum(1) - 0.2)
    assert fixed == pytest.approx(-0.2, abs=0.1), "what layers alone pay for, and networks do not"
    assert scales == pytest.approx([1.5] * 3, abs=0.1)
    assert min(fitted(alone, 3 - 0.1 * alone.sum(1))[0]) > 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = digits_job(tmp_path, 'latency = "table.json"', "[budget]\nmacs = 0.9", width=4)
    assert main(["profile", str(job), "--runtime", "onnxruntime", "-o", str(tmp_path / "table.json")]) == 0
    assert "table.json" in capsys.readouterr().out
    assert main(["inspect", str(job)]) == 0, "the table is found beside the job"
    assert main(["profile", str(job), "--runtime", "onnxruntime", "-o", str(tmp_path)]) == 2
    assert "it is a folder" in capsys.readouterr().err
    assert main(["profile", str(job), "--runtime", "onnxruntime", "-o", str(job / "table.json")]) == 2
    assert "name another place" in capsys.readouterr().err
    assert main(["profile", str(job), "--runtime", "tensorrt", "-o", str(tmp_path / "t.json")]) == 2
    assert "choose one of" in capsys.readouterr().err
    assert main(["profile", str(job), "--runtime", "onnxruntime", "--bundle", str(tmp_path / "bundle")]) == 0
    assert "python -m sessions.profile" in capsys.readouterr().out
    assert main(["profile", str(job), "--runtime", "torch", "--bundle", str(tmp_path / "bundle")]) == 2
    assert "torch needs no bundle" in capsys.readouterr().err


# ---- meters ----------------------------------------------------------------------------------------------------------


def domain(folder: Path, name: str, used: int) -> Path:
    """A RAPL domain as Linux shows it."""
    place = folder / f"intel-rapl:{name}"
    place.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", used), ("max_energy_range_uj", 1000)):
        (place / file).write_text(f"{value}\n")
    return place


def test_rapl_adds_its_packages_and_goes_on_when_a_counter_starts_again(tmp_path: Path) -> None:
    package, memory = domain(tmp_path, "package-0", 100), domain(tmp_path, "dram", 900)
    domain(tmp_path, "core", 5)
    meter = meters.Rapl(tmp_path)
    assert meter.joules() == 0
    (package / "energy_uj").write_text("300")
    (memory / "energy_uj").write_text("50")  # from 900 over 1,000 to 50
    assert meter.joules() == pytest.approx(350e-6)
    (tmp_path / "intel-rapl:core" / "energy_uj").write_text("900")
    assert meter.joules() == pytest.approx(350e-6), "cores are part of the package"


class Counting:
    """A meter by which every pass takes two joules; `run` is the pass."""

    def __init__(self) -> None:
        self.passes = 0

    def run(self, inputs: object) -> None:
        self.passes += 1

    def joules(self) -> float:
        return 2.0 * self.passes


def test_energy_of_one_pass() -> None:
    meter = Counting()
    assert meters.millijoules(meter.run, [], meter, least_s=0.001) == pytest.approx(2000)
    assert meter.passes > 1


def test_an_energy_table_is_made_read_and_searched_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, example, space = space_of("plain")
    monkeypatch.setattr(profile_here, "open_meter", lambda name: {"rapl": Counting()}[name])
    monkeypatch.setattr(profile_here, "millijoules", lambda run, inputs, meter: 1.0)
    made = make_table(model, example, space, How("onnxruntime", meter="rapl"))
    assert (made["metric"], made["meter"]) == ("energy_mj", "rapl")
    place = tmp_path / "energy.json"
    place.write_text(json.dumps(made))
    searched = SearchSpace(space.graph, sc.Budget(energy_mj=1.0), prices=[energy_model(str(place))])
    assert searched.dense.energy_mj > 0
    with pytest.raises(sc.BudgetError, match="holds energy_mj"):
        latency_model(str(place))


@pytest.mark.parametrize("command", [["measure"], ["profile", "--runtime", "onnxruntime", "-o", "table.json"]])
def test_a_meter_that_is_not_here_is_refused_at_once(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(meters, "POWERCAP", tmp_path)
    job = tmp_path / "job.toml"
    job.write_text('model.name = "plain20"\nmodel.weights = "w.safetensors"\ndata.source = "digits"\nbudget.macs = 1')
    (tmp_path / "w.safetensors").write_bytes(b"never read")
    assert main([command[0], str(job), *command[1:], "--meter", "rapl"]) == 2
    assert "no RAPL counter" in capsys.readouterr().err


def test_a_search_by_a_meter_without_a_table_is_refused() -> None:
    with pytest.raises(sc.BudgetError, match="make a table first"):
        _ = sc.SearchSettings(energy="rapl").prices
    with pytest.raises(sc.BudgetError, match="no such file"):
        _ = sc.SearchSettings(energy="nowhere.json").prices


# ---- block-sparse layers ---------------------------------------------------------------------------------------------


def test_a_table_of_torch_knows_what_blocks_save(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512)).eval()
    example = torch.randn(64, 512)
    settings = sc.SpaceSettings(step=256, sparsity={"2": "32x32"})
    space = SearchSpace(sc.inspect(model, example), sc.Budget(macs=1.0), settings)
    table = make_table(model, example, space, How("torch"))
    check(table, space, tmp_path / "table.json")
    (thinned,) = table["layers"][0]["thinned"]
    assert thinned["pattern"] == "32x32"
    assert thinned["factors"][-1] == 1.0
    assert all(0 < factor <= 1 for factor in thinned["factors"])
    priced = NetworkCost(space.graph, latency_model(str(tmp_path / "table.json")))
    assert (np.diff(priced.curve({}, "2:32x32")) >= 0).all()
    assert priced({"2:32x32": 4}) <= priced.dense


def test_blocks_save_what_the_table_says_and_single_weights_nothing() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8)).eval()
    settings = sc.SpaceSettings(sparsity={"0": "element", "2": "4x4"})
    graph = SearchSpace(sc.inspect(model, torch.zeros(1, 8)), sc.Budget(macs=1.0), settings).graph
    thinned = Thinned("4x4", (0.25, 0.5, 1.0), (0.3, 0.9, 1.0))
    grid = Grid("linear", (), 1, 1, (1, 1), (8,), (8,), ((2.0,),), thinned=(thinned,))
    table = LayerTable("here", "torch", 1, "today", 1, 0.5, (grid,))
    cost = NetworkCost(graph, table)
    assert cost.dense == pytest.approx(4.5)
    assert cost({"2:4x4": 2}) == pytest.approx(4.5 - 2 * 0.1), "half of four levels"
    assert cost({"2:4x4": 1}) == pytest.approx(4.5 - 2 * 0.7)
    assert cost({"0:element": 8}) == pytest.approx(4.5)


class Pyramid(torch.nn.Module):
    """One head for pictures of three sizes, 2 x 2, 4 x 4 and 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        return [self.head(torch.nn.functional.avg_pool2d(x, size)) for size in (4, 2, 1)]


def test_a_layer_that_runs_several_times_costs_all_of_them() -> None:
    graph = sc.inspect(Pyramid().eval(), torch.zeros(1, 3, 8, 8))
    head = graph.layer["head"]
    assert head.passes == (4 + 16 + 64) / 4
    assert picture_bytes(head, 8, 8) == (4 * 8 * 84, 4 * 8 * 84)
    grids = [Grid("conv", (3, 3), 1, 1, size, (width,), (8,), ((1.0,),)) for size, width in (((8, 8), 3), ((2, 2), 8))]
    table = LayerTable("here", "torch", 1, "today", 1, 0.0, tuple(grids))
    assert NetworkCost(graph, table).dense == pytest.approx(1 + 21)


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_time_never_falls_as_channels_or_blocks_grow(density: float) -> None:
    """Of a layer of one block nothing can be skipped, and a wider one never takes less."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()
    settings = sc.SpaceSettings(step=4, min_keep=0.05, sparsity={"2": "16x16"})
    space = SearchSpace(sc.inspect(model, torch.zeros(1, 64)), sc.Budget(macs=1.0), settings)
    layer = space.graph.layer["2"]
    sides = (8, 16, 32, 64)
    cost = tuple(tuple(float(i * o) for o in sides) for i in sides)
    thinned = Thinned("16x16", (0.1, 0.5, 1.0), (0.1, 0.6, 1.0))
    table = LayerTable(
        "here", "torch", 1, "today", 4, 0.0, (Grid("linear", (), 1, 1, (1, 1), sides, sides, cost, thinned=(thinned,)),)
    )
    told = np.array(
        [[float(table.layer_cost(layer, i, o, (density,))) for o in range(4, 65, 4)] for i in range(4, 65, 4)]
    )
    assert (np.diff(told, axis=0) >= 0).all()
    assert (np.diff(told, axis=1) >= 0).all()
    assert told[3, 3] == 16 * 16, "all that there is of it stays"
    levels = table.layer_cost(layer, 64, 64, (np.linspace(0, 1, 65),))
    assert (np.diff(levels) >= 0).all()


def test_layers_become_block_sparse_where_that_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()
    x = torch.randn(40, 64)
    plan = sc.Plan({"0:8x8": 0.2, "2:element": 0.2})
    small = sc.prune(model, x, plan, calibration=x)
    for taken, kind in (
        ({"dense": 2.0, "sparse": 1.0}, BlockSparseLinear),
        ({"dense": 1.0, "sparse": 2.0}, torch.nn.Linear),
    ):
        monkeypatch.setattr("secateur.runtimes.kernels.median_ms", lambda *_, taken=taken: taken)
        ready = sc.block_sparse(small, x)
        assert [type(ready[0]), type(ready[2])] == [kind, torch.nn.Linear]
        torch.testing.assert_close(ready(x), small(x), rtol=1e-4, atol=1e-5)
        assert type(sc.block_sparse(small, {"input": x})[0]) is kind
        assert type(sc.block_sparse(small[0], x)) is kind, "a single layer is a network too"
    assert type(small[0]) is torch.nn.Linear, "the network given is left as it is"


def test_tokens_are_timed_by_their_own_values() -> None:
    model = torch.nn.Sequential(
        torch.nn.Embedding(9, 16), torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
    )
    tokens = torch.tensor([[3, 8, 1]])
    space = SearchSpace(sc.inspect(model.eval(), tokens), sc.Budget(macs=1.0))
    made = bundle.bundle_of(model, tokens, space, bundle.Writer(lambda network, example, name: name))
    for each in made["networks"]:
        (given,) = random_inputs(json.loads(json.dumps(each["inputs"])))
        assert given.dtype == np.int64
        assert given.tolist() == tokens.tolist()
    assert random_inputs([[2, 5]])[0].shape == (2, 5)
