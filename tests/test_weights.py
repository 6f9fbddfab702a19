"""Sparsity inside layers: what goes, what makes up for it, what it costs, and that it lasts."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import settled
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import secateur as sc
from secateur import zoo
from secateur.errors import BudgetError, CheckpointError, PlanError
from secateur.graph import as_inputs, count_costs
from secateur.prune import Calibration, Pruner, PruneSettings
from secateur.prune.moments import collect
from secateur.prune.sensitivity import sense
from secateur.prune.solve import masked_least_squares
from secateur.schema import decode
from secateur.search import SearchSpace
from secateur.settings import identity
from secateur.sparse import (
    Blocks,
    BlockSparseConv2d,
    Pattern,
    Runs,
    block_sparsity,
    mask_of,
    masked_layers,
    pack,
    pattern,
    patterns,
    tiled,
    unpack,
)

PATTERNS = ["element", "4x4", "3x5", "1x8", "n:4"]
NO_REFIT = PruneSettings(refit=False, sequential=False, recalibrate=False)


def resnet() -> nn.Module:
    return settled(zoo.build("resnet20", 10, width=8))


def images(number: int = 60) -> Tensor:
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def space_of(model: nn.Module, sparsity: dict[str, Any], budget: sc.Budget, **rest: object) -> SearchSpace:
    found = sc.SpaceSettings(sparsity=sparsity, **rest)  # type: ignore[arg-type]
    return SearchSpace(sc.inspect(model, images(2)), budget, found)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    text=st.sampled_from(PATTERNS),
    density=st.floats(0.05, 1),
    seed=st.integers(0, 99),
)
def test_a_mask_keeps_no_more_than_asked_and_whole_parts(
    rows: int, columns: int, text: str, density: float, seed: int
) -> None:
    value = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    kind = pattern(text)
    assert str(kind) == text
    if isinstance(kind, Runs):
        density = max(round(density * kind.length), 1) / kind.length
    mask = kind.best(value, density)
    assert mask.shape == value.shape
    if isinstance(kind, Blocks):
        assert 0 < mask.sum() <= max(density * value.numel() * (1 + 1e-6), kind.least(rows, columns))
        inside = tiled(mask.float(), kind.block).sum((2, 3))
        sizes = tiled(torch.ones_like(value), kind.block).sum((2, 3))
        assert ((inside == 0) | (inside == sizes)).all(), "a block went in part"
    else:
        whole = mask[:, : columns // kind.length * kind.length].reshape(-1, kind.length)
        assert (whole.sum(1) == round(density * kind.length)).all()
        assert mask.any(1).all()
        assert mask.sum() <= max(density * value.numel() * (1 + 1e-6), rows)


def test_the_best_blocks_stay() -> None:
    value = torch.zeros(8, 8)
    value[0:4, 4:8] = 1.0
    value[7, 0] = 9.0
    wanted = torch.zeros(8, 8, dtype=torch.bool)
    wanted[0:4, 4:8] = True
    assert torch.equal(Blocks((4, 4)).best(value, 0.25), wanted)
    assert Blocks().best(value, 1 / 64).nonzero().tolist() == [[7, 0]]


def test_where_one_block_does_not_fit_a_smaller_one_may() -> None:
    """10 x 20 in blocks of 16 x 16: one of 160 weights, one of 40."""
    value = torch.ones(10, 20)
    value[:, :16] = 2.0
    mask = Blocks((16, 16)).best(value, 0.79)
    assert mask[:, 16:].all()
    assert mask.sum() == 40


@pytest.mark.parametrize("text", ["4", "0x4", "n:1", "n:0", "4x", "blocks", ""])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="pattern of sparsity"):
        pattern(text)
    with pytest.raises(BudgetError, match="sparsity of linear"):
        sc.SpaceSettings(sparsity={"linear": text})


def test_masked_least_squares_solves_every_row_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 30, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(30, 30, generator=generator, dtype=torch.float64)
    y = torch.randn(200, 7, generator=generator, dtype=torch.float64)
    square, right = x.T @ x / 200, y.T @ x / 200
    mask = torch.rand(7, 30, generator=generator) < 0.4
    mask[3] = False
    found = masked_least_squares(square, right, torch.randn(7, 30, generator=generator).double(), mask, 60)
    assert not found[~mask].any()
    for row, kept in zip(range(7), mask, strict=True):
        wanted = torch.linalg.lstsq(x[:, kept], y[:, row : row + 1]).solution[:, 0]
        torch.testing.assert_close(found[row, kept], wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("text", PATTERNS)
def test_a_gradual_choice_loses_less_than_magnitude_at_once(text: str) -> None:
    """By what the change of the layer's output, which both may refit, does to the answers."""
    model = resnet()
    space = space_of(model, {"layer2.1.conv1": text}, sc.Budget(params=0.999))
    pruner = Pruner(model, space.graph, Calibration(as_inputs(images())))
    (key, order), layer = *pruner.weight_orders.items(), "layer2.1.conv1"
    assert (np.diff(order.loss) <= 1e-12).all()
    assert order.loss[-1] == 0
    level = space.graph.width(key) // 2
    mask = pattern(text).best(model.get_parameter(f"{layer}.weight").detach().flatten(1).abs(), 0.5)
    centred = collect(model, space.graph, Calibration(as_inputs(images())))[layer].square[0].float()
    dense = model.get_parameter(f"{layer}.weight").detach().flatten(1)
    weighed = sense(pruner.dense, space.graph, Calibration(as_inputs(images()))).square[layer][0]
    dense = dense * weighed.diagonal().sqrt().float()[:, None]
    refitted = masked_least_squares(centred, dense @ centred, dense, mask, 50)
    gap = refitted - dense
    assert order.loss[0] == pytest.approx(float(((dense @ centred) * dense).sum()), rel=1e-3)
    assert order.loss[level] < float(((gap @ centred) * gap).sum())


@pytest.mark.parametrize("text", PATTERNS)
def test_a_network_is_thinned_out_as_the_plan_says(text: str) -> None:
    model = resnet()
    space = space_of(model, {"layer3.*": text, "linear": "element"}, sc.Budget(params=0.9), leave=("*",))
    assert {site.granularity for site in space.sites} == {text, "element"}
    pruner = Pruner(model, space.graph, Calibration(as_inputs(images())))
    counts = {site.key: max(site.width // 2, site.least) for site in space.sites}
    for network in (pruner.candidate(counts), pruner.final(counts)):
        masks = {name: mask for name, _, mask, _ in masked_layers(network)}
        assert masks.keys() == {layer.name for layer in space.graph.sparse.values()}
        for name, mask in masks.items():
            weight = network.get_parameter(f"{name}.weight")
            assert not weight[~mask].any()
            assert weight[mask].count_nonzero() > 0.9 * mask.sum()
            assert mask.float().mean() <= 0.5 + 1e-6
    whole = pruner.candidate({site.key: site.width for site in space.sites})
    assert not [*masked_layers(whole)], "a plan that keeps everything leaves no mask of the last one"


@pytest.mark.parametrize("text", ["element", "4x4", "3x5", "16x16", "n:4", "n:5"])
@pytest.mark.parametrize("entries", [False, True])
def test_a_network_never_costs_more_than_told(text: str, entries: bool) -> None:
    """Whatever does not divide: what a plan costs is at most what the space says."""
    model = resnet()
    space = space_of(model, {"*": text}, sc.Budget(bytes=0.9), entries=entries, step=1)
    pruner = Pruner(model, space.graph, Calibration(as_inputs(images())), NO_REFIT)
    rng = np.random.default_rng(0)
    for _ in range(3):
        counts = {site.key: int(rng.integers(site.least, site.width + 1)) for site in space.sites}
        built, told = count_costs(pruner.final(counts), images(1)), space.costs(counts)
        for metric in ("macs", "params", "bytes"):
            assert built[metric] <= told[metric] + 1, metric


@pytest.mark.parametrize("text", ["element", "4x4"])
def test_costs_are_those_of_the_network_that_is_built(text: str) -> None:
    model = resnet()
    space = space_of(model, {"layer*": text}, sc.Budget(macs=0.5))
    counts = {site.key: max(site.width // 2, site.least) for site in space.sites}
    small = Pruner(model, space.graph, Calibration(as_inputs(images())), NO_REFIT).final(counts)
    told, built = space.costs(counts), count_costs(small, images(1))
    for metric in ("macs", "params", "bytes"):
        assert built[metric] <= told[metric] * (1 + 1e-6)
        assert built[metric] == pytest.approx(told[metric], rel=0.02)
    assert built.block_sparsity == pytest.approx(told.block_sparsity, abs=0.02)
    brute = [block_sparsity(m.weight.detach().flatten(1), (4, 4)) * m.weight.numel() for m in weighted(small)]
    total = sum(module.weight.numel() for module in weighted(small))
    if text == "4x4":
        assert built.block_sparsity == pytest.approx(sum(brute) / total)
    else:
        assert built.block_sparsity == 0.0


@pytest.mark.parametrize("text", ["16x16", "32x32"])
def test_of_a_small_layer_one_block_stays_and_is_told_so(text: str) -> None:
    """A layer cut to the size of a block is whole: a reward is not paid for zeros that are not there."""
    model = resnet()
    space = space_of(model, {"*": text}, sc.Budget(macs=1.0), min_keep=0.05)
    least = {site.key: site.least for site in space.sites}
    thin = Pruner(model, space.graph, Calibration(as_inputs(images())), NO_REFIT).final(least)
    built = count_costs(thin, images(1)).block_sparsity
    assert built - 0.2 < space.costs(least).block_sparsity <= built + 1e-9


def test_a_block_sparse_network_is_saved_and_counted_as_what_it_was_made_from(tmp_path: Path) -> None:
    model = settled(zoo.build("resnet20", 10))
    plan = sc.Plan({f"layer3.{number}.conv2:16x16": 0.25 for number in range(3)})
    thin = sc.prune(model, images(2), plan, calibration=images())
    sparse = copy.deepcopy(thin)
    for number in range(3):
        sparse.layer3[number].conv2 = BlockSparseConv2d.of(thin.layer3[number].conv2, (16, 16))
    assert count_costs(sparse, images(1)) == count_costs(thin, images(1))
    sc.save(sparse, tmp_path / "sparse.safetensors")
    loaded = sc.load(tmp_path / "sparse.safetensors", zoo.build("resnet20", 10))
    for name, tensor in thin.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert [name for name, *_ in masked_layers(loaded)] == [name for name, *_ in masked_layers(thin)]
    with pytest.warns(UserWarning, match="is dense"):
        assert sc.export(sparse, images(4), tmp_path / "sparse.onnx", runtime="onnxruntime") < 1e-3
    with pytest.raises(sc.DataError, match="for inference"):
        sc.finetune(sparse, [(images(4), torch.zeros(4, dtype=torch.int64))])
    with torch.no_grad():
        thin.layer3[0].conv2.weight.add_(1.0)
    with pytest.raises(CheckpointError, match=r"sparse\.hold"):
        sc.save(thin, tmp_path / "thin.safetensors")


def weighted(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def test_refits_make_up_for_weights_that_left() -> None:
    model = resnet()
    space = space_of(model, {"layer*": "element"}, sc.Budget(params=0.5), leave=("*",))
    counts = {site.key: site.width // 3 for site in space.sites}
    held_out = torch.randn(100, 3, 16, 16, generator=torch.Generator().manual_seed(5))

    def apart(settings: PruneSettings) -> float:
        thin = Pruner(model, space.graph, Calibration(as_inputs(images(300))), settings).final(counts)
        with torch.no_grad():
            return float((thin(held_out) - model(held_out)).square().mean())

    by_magnitude = apart(PruneSettings(criterion="magnitude", refit=False, sequential=False))
    assert apart(PruneSettings(sequential=False)) < 0.5 * by_magnitude
    assert apart(PruneSettings()) < 0.5 * by_magnitude


@pytest.mark.parametrize("text", PATTERNS)
def test_saved_and_loaded_it_is_the_same_and_smaller(text: str, tmp_path: Path) -> None:
    model = resnet()
    space = space_of(model, {"layer*": text}, sc.Budget(macs=0.5))
    plan = space.fit([1.0] * len(space.sites))
    thin = sc.prune(model, images(2), plan, calibration=images())
    sc.save(thin, tmp_path / "thin.safetensors")
    sc.save(model, tmp_path / "dense.safetensors")
    loaded = sc.load(tmp_path / "thin.safetensors", resnet())
    for name, tensor in thin.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    before, after = ({name: mask for name, _, mask, _ in masked_layers(network)} for network in (thin, loaded))
    assert before
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    kept, whole = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("thin", "dense"))
    assert kept < 0.75 * whole
    assert sum(tensor.nbytes for tensor in load_file(tmp_path / "thin.safetensors").values()) == pytest.approx(
        count_costs(thin, images(1)).bytes
    )


def test_a_file_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    model = resnet()
    plan = sc.Plan({"layer3.0.conv1:8x8": 0.5})
    place = tmp_path / "thin.safetensors"
    sc.save(sc.prune(model, images(2), plan, calibration=images()), place)
    with safe_open(place, "pt") as file:
        note = file.metadata()
    tensors = load_file(place)
    for damage in (
        {"layer3.0.conv1.weight.column": tensors["layer3.0.conv1.weight.column"] + 100},
        {"layer3.0.conv1.weight.start": tensors["layer3.0.conv1.weight.start"][:-2].clone()},
        {"layer3.0.conv1.weight.values": torch.zeros(3)},
        {"layer3.0.conv1.weight.values": torch.zeros(2, 0, 4)},
        {"layer3.0.conv1.weight.start": tensors["layer3.0.conv1.weight.start"].float()},
    ):
        save_file(tensors | damage, place, metadata=note)
        with pytest.raises(CheckpointError, match="damaged"):
            sc.load(place, resnet())
    for sparse in ("{nope", "[1]", '{"layer3.0.conv1": {"pattern": "3x5", "shape": [32, 16, 3, 3]}}', '{"nobody": {}}'):
        save_file(tensors, place, metadata=note | {"sparse": sparse})
        with pytest.raises(CheckpointError, match="damaged"):
            sc.load(place, resnet())
    save_file(tensors, place, metadata=note | {"sparse": note["sparse"].replace("[32", "[10000000")})
    with pytest.raises(CheckpointError, match="no part of"):
        sc.load(place, resnet())


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    text=st.sampled_from(PATTERNS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_packing_loses_nothing(rows: int, columns: int, text: str, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    kind: Pattern = pattern(text)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    mask = kind.best(weight.float().abs(), 0.25)
    weight = weight * mask
    packed = pack(weight, mask, kind)
    if packed:
        found, kept = unpack(packed, weight.shape, kind)
        assert torch.equal(found, weight)
        assert torch.equal(kept, mask)


def test_fine_tuning_leaves_the_zeros_alone() -> None:
    model = resnet()
    thin = sc.prune(model, images(2), sc.Plan({"layer3.0.conv1:4x4": 0.5, "linear:element": 0.3}), calibration=images())
    before = {name: module.get_parameter("weight").detach().clone() for name, module, _, _ in masked_layers(thin)}
    labels = torch.arange(60) % 10
    sc.finetune(thin, [(images(), labels)], teacher=model, epochs=2)
    assert len(before) == 2
    for name, old in before.items():
        module = thin.get_submodule(name)
        mask = mask_of(module)
        assert mask is not None
        assert not module.get_parameter("weight")[~mask].any()
        assert not torch.equal(module.get_parameter("weight"), old)


def searched(model: nn.Module, macs: float | tuple[float, float], settings: sc.SearchSettings, **rest: Any) -> sc.Study:
    return sc.search(
        model,
        images(2),
        evaluate=sc.agreement(model, images(100)),
        calibration=images(),
        budget=sc.Budget(macs=macs),
        settings=settings,
        **rest,
    )


def test_a_search_mixes_channels_and_blocks_within_its_budget(tmp_path: Path) -> None:
    model = resnet()
    space = sc.SpaceSettings(sparsity={"layer3.*": "4x4", "layer2.*": "element"})
    found = searched(model, 0.4, sc.SearchSettings(space=space), trials=8, folder=tmp_path / "run")
    kinds = {site.granularity for site in found.space.sites}
    assert kinds == {"channel", "4x4", "element"}
    assert all(trial.outcome.costs.macs <= 0.4 * found.graph.dense.macs for trial in found.succeeded if trial.outcome)
    assert any(trial.outcome.costs.block_sparsity > 0 for trial in found.succeeded if trial.outcome)
    small = sc.prune(model, images(2), found.best.plan, calibration=images())
    assert count_costs(small, images(1)).macs <= 0.4 * found.graph.dense.macs
    with pytest.raises(sc.TraceError, match="sparse already"):
        sc.inspect(small, images(2))


def test_what_cannot_be_sparse_is_refused_before_anything_runs() -> None:
    model = settled(zoo.build("mobilenet_v1", 10, width=0.25))
    with pytest.raises(BudgetError, match="no layer of that name can be sparse"):
        space_of(model, {"nothing.*": "element"}, sc.Budget(macs=0.5))
    with pytest.raises(BudgetError, match="sparsity of linear: 'thin' is no pattern"):
        sc.SpaceSettings(sparsity={"linear": ("4x4", "thin")})

    for wrong in (("4x4", "8x8"), ("n:4", "n:8"), ("element", "element"), ("4x6", "n:4")):
        with pytest.raises(BudgetError, match="sparsity of linear"):
            sc.SpaceSettings(sparsity={"linear": wrong})
    with pytest.raises(PlanError, match="the plan has 8x8, 4x4 for one layer"):
        sc.prune(resnet(), images(2), sc.Plan({"linear:8x8": 0.5, "linear:4x4": 0.5}), calibration=images())


SEVERAL = ("element", "8x4", "n:4")


def test_a_layer_may_choose_among_several_patterns(tmp_path: Path) -> None:
    """Each is a site of its own: blocks leave, then some of every four, then single weights of those that stay."""
    model = resnet()
    space = space_of(model, {"layer3.*": SEVERAL}, sc.Budget(macs=0.9), leave=("*",))
    name, layer = "layer3.0.conv1", space.graph.layer["layer3.0.conv1"]
    assert [str(each.pattern) for each in layer.sparsities] == ["8x4", "n:4", "element"]
    assert len(space.sites) == len(space.graph.sparse) == 3 * len({x.name for x in space.graph.sparse.values()})
    pruner = Pruner(model, space.graph, Calibration(as_inputs(images())))
    counts = {site.key: site.width for site in space.sites}
    for key in layer.sparsities:
        counts[key.key] = key.levels // 2
        small = pruner.final(counts)
        ((found, _, mask, kind),) = masked_layers(small)
        assert (found, str(kind)) == (name, "8x4")
        told, built = space.costs(counts), count_costs(small, images(1))
        assert built.block_sparsity == pytest.approx(told.block_sparsity, rel=0.02)
        assert built.macs <= told.macs
        assert built.params <= told.params
        assert built.bytes <= told.bytes
        sc.save(small, tmp_path / "thin.safetensors")
        again = sc.load(tmp_path / "thin.safetensors", resnet())
        assert torch.equal(mask_of(again.get_submodule(name)), mask), "to the last weight"
    assert mask.float().mean() == pytest.approx(1 / 8, rel=0.1)
    same = sc.prune(model, images(2), space.plan(counts), calibration=images())
    assert torch.equal(mask_of(same.get_submodule(name)), mask)
    only = sc.prune(model, images(2), sc.Plan({f"{name}:element": 0.5}), calibration=images())
    assert [str(kind) for _, _, _, kind in masked_layers(only)] == ["element"]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    texts=st.sampled_from([("4x4", "n:4"), ("8x2", "n:2"), ("3x5", "element"), ("n:4", "element"), SEVERAL]),
    densities=st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
)
def test_a_finer_pattern_keeps_its_share_of_what_is_left(
    rows: int, columns: int, texts: tuple[str, ...], densities: list[float]
) -> None:
    value = torch.rand(rows, columns, generator=torch.Generator().manual_seed(rows))
    mask = torch.ones_like(value, dtype=torch.bool)
    for kind, density in zip(patterns(texts), densities, strict=False):
        if isinstance(kind, Runs):
            density = max(round(density * kind.length), 1) / kind.length
        left = kind.within(value, density, mask)
        assert not (left & ~mask).any()
        assert left.any()
        if isinstance(kind, Blocks):
            assert left.sum() <= max(density * mask.sum() * (1 + 1e-6), kind.least(rows, columns))
            if not kind.fine:  # the first
                assert kind.skipped(left) >= (~left).sum() - (~mask).sum(), "whole blocks"
        else:
            whole = left[:, : columns // kind.length * kind.length].reshape(rows, -1, kind.length).sum(2)
            share = round(density * kind.length)
            assert ((whole == 0) | (whole == share)).all() or left.sum() == 1, "a run has its share, or left whole"
        mask = left
    weight = torch.where(mask, value + 0.1, 0.0)
    for text in texts:
        parts = pack(weight, mask, pattern(text))
        if parts:
            back, kept = unpack(parts, weight.shape, pattern(text))
            assert torch.equal(back, weight)
            assert torch.equal(kept, mask)


def test_a_search_chooses_among_several_patterns() -> None:
    """Under a budget of parameters single weights lose least; paid for whole zero blocks, blocks go."""
    space = sc.SpaceSettings(sparsity={"layer3.*": ("4x4", "element")}, leave=("*",))
    fine = searched(resnet(), 0.75, sc.SearchSettings(space=space), trials=12).best
    paid = sc.SearchSettings(space=space, reward=sc.Composite(alpha=0, beta=-0.01, delta=1.0))
    coarse = searched(resnet(), (0.75, 1.0), paid, trials=12).best
    assert fine.outcome.costs.block_sparsity < coarse.outcome.costs.block_sparsity


def test_bytes_never_fall_as_more_is_kept() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
    space = SearchSpace(
        sc.inspect(model, torch.zeros(2, 256)),
        sc.Budget(bytes=1.0),
        sc.SpaceSettings(leave=("*",), sparsity={"0": ("16x16", "element")}),
    )
    for blocks in (4, 6, 40, 64):
        for key in ("0:16x16", "0:element"):
            curve = space.cost.curve({"0:16x16": blocks, "0:element": blocks}, key)
            assert (np.diff(curve) >= 0).all()


def test_a_mask_is_kept_where_zeros_do_not_tell_it(tmp_path: Path) -> None:
    """A weight that stays may be zero for the moment."""
    small = sc.prune(resnet(), images(2), sc.Plan({"linear:element": 0.98}), calibration=images())
    mask = mask_of(small.linear).clone()
    with torch.no_grad():
        small.linear.weight[:, :3] = 0.0
    sc.save(small, tmp_path / "thin.safetensors")
    assert torch.equal(mask_of(sc.load(tmp_path / "thin.safetensors", resnet()).linear), mask)


def test_the_order_of_patterns_makes_the_study() -> None:
    first, second = ({"linear": "element", "*": "8x8"}, {"*": "8x8", "linear": "element"})
    model = resnet()
    found = [
        identity(
            model,
            space_of(model, sparsity, sc.Budget(macs=0.9)),
            sc.Bayesian(),
            sc.SearchSettings(space=sc.SpaceSettings(sparsity=sparsity)),
        )
        for sparsity in (first, second)
    ]
    assert found[0] != found[1]


def test_a_job_may_list_several_patterns() -> None:
    found = decode(sc.SpaceSettings, {"sparsity": {"*": ["16x16", "element"], "fc": "n:4"}}, "space")
    assert found.sparsity == {"*": ("16x16", "element"), "fc": "n:4"}


def test_block_sparsity_can_be_paid_for() -> None:
    settings = sc.SearchSettings(
        space=sc.SpaceSettings(sparsity={"layer3.*": "4x4"}, leave=("*",)),
        reward=sc.Composite(alpha=0, beta=-0.01, delta=1.0),
    )
    found = searched(resnet(), (0.75, 1.0), settings, trials=12)
    assert found.best.outcome is not None
    paid = [trial.outcome.costs.block_sparsity for trial in found.succeeded if trial.outcome]
    assert found.best.outcome.costs.block_sparsity > 0.95 * max(paid)
    assert found.best.outcome.terms["sparsity"] == found.best.outcome.costs.block_sparsity
