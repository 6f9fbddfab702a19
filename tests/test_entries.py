"""Entries: a convolution may leave out channels of a stream that others still need."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from networks import settled
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import secateur as sc
from secateur import zoo
from secateur.graph import as_inputs, count_costs
from secateur.prune import Calibration, Cutter, Picking, Pruner, PruneSettings, fold_norms, shaped
from secateur.search import RULES, SearchSpace, SpaceSettings, apply_rule

WITH = SpaceSettings(entries=True)


def resnet() -> nn.Module:
    return settled(zoo.build("resnet20", 10, width=8))


def images(number: int = 40) -> Tensor:
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def space_of(model: nn.Module, macs: float = 0.5, settings: SpaceSettings = WITH) -> SearchSpace:
    return SearchSpace(sc.inspect(model, images(2)), sc.Budget(macs=macs), settings)


def half(space: SearchSpace) -> dict[str, int]:
    """Counts that cut every site to half of its units."""
    return {site.key: max(site.width // 2, 1) for site in space.sites}


def test_each_reader_of_a_stream_has_an_entry_and_nothing_else_has() -> None:
    space = space_of(resnet())
    entries = [site.key for site in space.sites if site.key.endswith(":in")]
    assert entries == [f"layer{stage}.{block}.conv1:in" for stage in (1, 2, 3) for block in range(3)]
    assert len(space.sites) == 18
    assert not [site.key for site in space_of(resnet(), settings=SpaceSettings()).sites if site.key.endswith(":in")]


def test_a_stream_that_is_cut_itself_has_no_entries() -> None:
    model = settled(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(1152, 4)))
    assert len(space_of(model, 0.9).sites) == len(space_of(model, 0.9, SpaceSettings()).sites)


def test_a_layer_that_picks_is_taken_apart_by_fx_and_jit() -> None:
    plan = sc.Plan({"layer1.1.conv1:in": 0.5, "layer2.0.conv1": 0.6})
    x = images(2)
    small = sc.prune(resnet(), x, plan, calibration=[images()]).eval()
    answer = small(x)
    for taken in (torch.fx.symbolic_trace(small), torch.jit.script(small), torch.jit.trace(small, x)):
        torch.testing.assert_close(taken(x), answer)


def test_cut_entries_answer_as_if_the_weights_were_zero() -> None:
    model = resnet()
    space = space_of(model)
    pruner = Pruner(model, space.graph, Calibration(as_inputs(images())), PruneSettings(refit=False, sequential=False))
    counts = {site.key: site.width // 2 for site in space.sites if site.key.endswith(":in")}
    kept = pruner.kept(counts)
    deaf = resnet()
    for key, units in kept.items():
        weight = deaf.get_parameter(key.removesuffix(":in") + ".weight").data
        gone = torch.ones(weight.shape[1], dtype=torch.bool)
        gone[torch.from_numpy(units)] = False
        weight[:, gone] = 0
    with torch.no_grad():
        cut, wanted = pruner.candidate(counts)(images(4)), deaf(images(4))
    torch.testing.assert_close(cut, wanted, rtol=1e-4, atol=1e-4)


def test_costs_are_those_of_the_network_that_is_built() -> None:
    model = resnet()
    space = space_of(model)
    small = Pruner(model, space.graph, Calibration(as_inputs(images()))).final(half(space))
    assert count_costs(small, images(1)).macs == space.cost(half(space))
    with torch.no_grad():  # the layout in memory decides how channels are gathered, never which
        one, other = small(images(4)), small(images(4).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_entry_that_stays_whole_leaves_an_ordinary_convolution() -> None:
    model = resnet()
    space = space_of(model)
    pruner = Pruner(model, space.graph, Calibration(as_inputs(images())))
    counts = half(space) | {"layer2.1.conv1:in": 16}
    small = pruner.final(counts)
    assert type(small.get_submodule("layer2.1.conv1")) is nn.Conv2d
    assert isinstance(small.get_submodule("layer2.2.conv1"), Picking)
    assert count_costs(small, images(1)).macs == space.cost(counts)


def test_a_network_of_the_same_sizes_picks_only_where_it_is_cut() -> None:
    """What is timed has to be what will be delivered."""
    model = resnet()
    space = space_of(model)
    cutter = Cutter(model, space.graph)
    counts = half(space) | {"layer2.1.conv1:in": 16}
    for _ in range(2):
        same = shaped(cutter, counts)
        assert type(same.get_submodule("layer2.1.conv1")) is nn.Conv2d
        assert isinstance(same.get_submodule("layer2.2.conv1"), Picking)
    whole = shaped(cutter, {site.key: site.width for site in space.sites})
    assert not any(isinstance(module, Picking) for module in whole.modules())


def test_a_plan_names_its_entries_and_the_file_brings_them_back(tmp_path: Path) -> None:
    model = resnet()
    space = space_of(model)
    small = sc.prune(model, images(2), space.plan(half(space)), calibration=[images()])
    sc.save(small, tmp_path / "small.safetensors")
    back = sc.load(tmp_path / "small.safetensors", resnet()).eval()
    with torch.no_grad():
        assert torch.equal(back(images(4)), small.eval()(images(4)))
    assert back.get_submodule("layer1.1.conv1").in_channels == 4
    for same in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        with torch.no_grad():
            assert torch.equal(same(images(4)), back(images(4)))


@pytest.mark.parametrize("wrong", [torch.tensor([0, 1, 2, 8]), torch.tensor([0.0, 1, 2, 3]), torch.tensor([[0, 1]])])
def test_a_file_with_impossible_channels_is_refused(tmp_path: Path, wrong: Tensor) -> None:
    model = resnet()
    space = space_of(model)
    place = tmp_path / "small.safetensors"
    sc.save(sc.prune(model, images(2), space.plan(half(space)), calibration=[images()]), place)
    from safetensors import safe_open

    with safe_open(place, framework="pt") as file:
        note = file.metadata()
    save_file(load_file(place) | {"layer1.1.conv1.picked": wrong}, place, metadata=note)
    with pytest.raises(sc.CheckpointError, match=r"layer1\.1\.conv1"):
        sc.load(place, resnet())


def test_a_pruned_network_is_pruned_once_more() -> None:
    model = resnet()
    space = space_of(model)
    small = sc.prune(model, images(2), space.plan(half(space)), calibration=[images()])
    again = space_of(small, 0.6)
    smaller = Pruner(small, again.graph, Calibration(as_inputs(images()))).final(half(again))
    assert count_costs(smaller, images(1)).macs == again.cost(half(again)) < count_costs(small, images(1)).macs
    assert smaller(images(2)).shape == (2, 10)


def test_a_stream_and_a_reader_of_it_cannot_both_be_cut() -> None:
    model = settled(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(1))
    )
    with pytest.raises(sc.PlanError, match="pick from its channels"):
        sc.prune(model, images(2), sc.Plan({"0": 0.5, "2:in": 0.5}), calibration=[images()])
    small = sc.prune(model, images(2), sc.Plan({"2:in": 0.5}), calibration=[images()])
    assert small.get_submodule("2").in_channels == 4


def test_a_plan_that_names_no_layer_is_refused() -> None:
    with pytest.raises(sc.PlanError, match="nowhere:in"):
        sc.prune(resnet(), images(2), sc.Plan({"nowhere:in": 0.5}), calibration=[images()])


def test_rules_leave_entries_whole() -> None:
    space = space_of(resnet())
    for rule in RULES.values():
        plan = apply_rule(space, rule)
        assert all(plan[key] == 1 for key in plan if key.endswith(":in"))
        assert 0.45 < space.cost(space.counts(plan)) / space.cost.dense <= 0.5


def test_a_search_chooses_entries() -> None:
    model = resnet()
    study = sc.search(
        model,
        images(2),
        evaluate=sc.agreement(model, images()),
        calibration=[images()],
        budget=sc.Budget(macs=0.5),
        trials=8,
        settings=sc.SearchSettings(space=WITH),
    )
    assert any(trial.plan[key] < 1 for trial in study.trials for key in trial.plan if key.endswith(":in"))
    small = sc.prune(model, images(2), study.best.plan, calibration=[images()])
    assert count_costs(small, images(1)).macs <= study.graph.dense.macs / 2


def test_one_conversion_serves_all_entries() -> None:
    pytest.importorskip("openvino")
    from secateur.runtimes.openvino import OpenVino

    model = resnet()
    space = space_of(model)
    pruner = Pruner(model, space.graph, Calibration(as_inputs(images())))
    made = OpenVino(fold_norms(model, space.graph), (images(8),), (images(8),))
    for keep in (0.5, 0.75, 1.0):
        candidate = pruner.candidate({s.key: s.count(keep) for s in space.sites})
        with torch.no_grad():
            torch.testing.assert_close(made(candidate)(images(8)), candidate(images(8)), rtol=1e-3, atol=1e-3)
    assert made.conversions == 1
