"""Fine-tuning restores, resumes to the same weights, and checkpoints never unpickle."""

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur import zoo
from secateur.data import TrainBatches
from secateur.finish import load_weights
from secateur.graph import count_costs
from secateur.prune import Cutter, pick

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def pruned(network: nn.Module, example: torch.Tensor = EXAMPLE) -> nn.Module:
    """Half of every group."""
    graph = sc.inspect(network, example)
    keep = {group.key: torch.arange(0, group.width, 2).numpy() for group in graph.prunable}
    return Cutter(network, graph).cut(keep).eval()


@pytest.mark.parametrize("name", ["resnet20", "plain20", "mobilenet_v1", "mobilenet_v2", "vgg16"])
def test_save_and_load_give_the_same_network(name, tmp_path):
    example = torch.randn(2, 3, 32, 32)
    small = pruned(zoo.build(name, 10).eval(), example)
    sc.save(small, tmp_path / "small.safetensors")
    loaded = sc.load(tmp_path / "small.safetensors", zoo.build(name, 10)).eval()
    assert torch.equal(small(example), loaded(example))
    assert count_costs(small, example) == count_costs(loaded, example)
    assert (tmp_path / "small.safetensors").stat().st_size < count_costs(zoo.build(name, 10), example).bytes


def test_layer_norm_and_group_norm_keep_their_widths(tmp_path):
    def network():
        return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4))

    example = torch.randn(3, 6)
    small = pruned(network().eval(), example)
    sc.save(small, tmp_path / "small.safetensors")
    loaded = sc.load(tmp_path / "small.safetensors", network()).eval()
    assert loaded[1].normalized_shape == (4,)
    assert torch.equal(small(example), loaded(example))


def test_tied_weights_are_stored_once_and_come_back(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4, bias=False)
            self.two = nn.Linear(4, 4, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    tied = Tied()
    sc.save(tied, tmp_path / "tied.safetensors")
    loaded = sc.load(tmp_path / "tied.safetensors", Tied())
    assert torch.equal(loaded(torch.ones(1, 4)), tied(torch.ones(1, 4)))
    assert len([*loaded.parameters()]) == len([*tied.parameters()]), "they are equal, but no longer one"


def test_buffers_that_begin_alike_are_stored_each(tmp_path):
    class Overlapping(nn.Module):
        def __init__(self, whole):
            super().__init__()
            self.register_buffer("first", whole[:8])
            self.register_buffer("whole", whole)

    sc.save(Overlapping(torch.arange(16.0)), tmp_path / "two.safetensors")
    loaded = sc.load(tmp_path / "two.safetensors", Overlapping(torch.zeros(16)))
    assert torch.equal(loaded.whole, torch.arange(16.0))


def test_load_refuses_another_architecture(tmp_path):
    sc.save(zoo.build("resnet20"), tmp_path / "a.safetensors")
    with pytest.raises(sc.CheckpointError, match="does not fit"):
        sc.load(tmp_path / "a.safetensors", zoo.build("resnet32"))
    with pytest.raises(sc.CheckpointError, match="cannot be cut from"):
        sc.load(tmp_path / "a.safetensors", zoo.build("resnet20", width=8))


class Bomb:
    """Would write a file when unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (open, (str(self.place), "w"))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_is_refused_and_not_run(writer, tmp_path):
    place, proof = tmp_path / "evil.pt", tmp_path / "ran"
    if writer == "pickle":
        place.write_bytes(pickle.dumps({"w": Bomb(proof)}))
    else:
        torch.save({"w": Bomb(proof)}, place)
    with pytest.raises(sc.CheckpointError, match=r"unpickling can run any code"):
        sc.load(place, zoo.build("resnet20"))
    with pytest.raises(sc.CheckpointError, match=r"unpickling can run any code"):
        load_weights(zoo.build("resnet20"), place)
    assert not proof.exists()


def test_weights_that_do_not_fit_are_named(tmp_path):
    torch.save(zoo.build("resnet20").state_dict(), tmp_path / "w.pt")
    load_weights(zoo.build("resnet20"), tmp_path / "w.pt")
    with pytest.raises(sc.CheckpointError, match=r"does not fit .*missing \['layer1\.3.*, unknown \[\]"):
        load_weights(zoo.build("resnet32"), tmp_path / "w.pt")
    with pytest.raises(sc.CheckpointError, match="give the options"):
        load_weights(zoo.build("resnet20", width=8), tmp_path / "w.pt")
    with pytest.raises(sc.CheckpointError, match="no file"):
        load_weights(zoo.build("resnet20"), tmp_path / "missing.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(sc.CheckpointError, match="safetensors"):
        load_weights(zoo.build("resnet20"), tmp_path / "torn.safetensors")


@pytest.mark.parametrize("wrapper", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_what_a_wrapper_has_put_before_names_is_left_out(wrapper, tmp_path):
    dense, fresh = zoo.build("resnet20"), zoo.build("resnet20")
    state = {wrapper + name: tensor for name, tensor in dense.state_dict().items()}
    torch.save({"epoch": 3, "model": state, "optimizer": {"state": {}}}, tmp_path / "w.pt")
    load_weights(fresh, tmp_path / "w.pt")
    assert torch.equal(fresh.conv1.weight, dense.conv1.weight)
    torch.save({"model": state, "ema": state}, tmp_path / "w.pt")
    with pytest.raises(sc.CheckpointError, match=r"several state dicts \(model, ema\)"):
        load_weights(fresh, tmp_path / "w.pt")


def two_blobs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [64, 1, 8, 8] of two classes that differ in brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(64) % 2
    return torch.randn(64, 1, 8, 8, generator=generator) + labels[:, None, None, None] * 1.5, labels


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return zoo.build("resnet20", 2, 1, width=4)


SETTINGS = sc.FineTune(epochs=4, lr=0.05, precision="float32")


def batches() -> TrainBatches:
    return TrainBatches(*two_blobs(), 16, seed=0, crop_pad=1)


def test_training_lowers_the_loss_and_learns():
    network = small_network()
    history = sc.finetune(network, batches(), settings=SETTINGS, evaluate=sc.accuracy(*two_blobs(1)))
    assert history[-1].loss < history[0].loss
    assert history[-1].score > 0.9
    assert not network.training


def test_distillation_follows_the_teacher_and_leaves_it_alone():
    teacher = small_network(1)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = small_network()
    images, labels = two_blobs()
    wrong = torch.zeros_like(labels)  # the labels say nothing; only the teacher can be followed
    sc.finetune(teacher, batches(), settings=SETTINGS)
    taught = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    lessons = TrainBatches(images, wrong, 16, seed=0, crop_pad=1)
    sc.finetune(student, lessons, teacher=teacher, settings=replace(SETTINGS, distil=1.0, epochs=6))
    agreement = (student(images).argmax(1) == teacher(images).argmax(1)).float().mean()
    assert agreement > 0.85
    assert all(torch.equal(taught[name], tensor) for name, tensor in teacher.state_dict().items())
    assert any(not torch.equal(taught[name], before[name]) for name in before)


class Stop(Exception):
    """Stands for a kill between epochs."""


def killed_after_two_epochs(network, settings, place):
    def stop(epoch):
        if epoch.number == 1:
            raise Stop

    with pytest.raises(Stop):
        sc.finetune(network, batches(), settings=settings, checkpoint=place, on_epoch=stop)


def test_killed_training_resumes_to_the_same_weights(tmp_path):
    whole, torn = small_network(), small_network()
    sc.finetune(whole, batches(), settings=SETTINGS)

    killed_after_two_epochs(torn, SETTINGS, tmp_path / "t.pt")
    fresh = small_network()
    history = sc.finetune(fresh, batches(), settings=SETTINGS, checkpoint=tmp_path / "t.pt")
    assert [epoch.number for epoch in history] == [0, 1, 2, 3]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


def test_a_training_begun_on_a_gpu_goes_on_on_the_cpu(tmp_path):
    whole, torn = small_network(), small_network()
    sc.finetune(whole, batches(), settings=SETTINGS)
    killed_after_two_epochs(torn, SETTINGS, tmp_path / "t.pt")
    saved = torch.load(tmp_path / "t.pt", weights_only=True)
    (group,) = saved["optimizer"]["param_groups"]
    group.update(lr=torch.tensor(group["lr"], dtype=torch.float64), fused=True)  # as a replayed one leaves it
    torch.save(saved, tmp_path / "t.pt")
    fresh = small_network()
    sc.finetune(fresh, batches(), settings=SETTINGS, checkpoint=tmp_path / "t.pt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


def test_what_dropout_draws_is_the_same_each_time_and_after_a_kill(tmp_path):
    def dropping():
        network = small_network()
        return nn.Sequential(network, nn.Dropout(0.3))

    whole, other, torn = dropping(), dropping(), dropping()
    sc.finetune(whole, batches(), settings=SETTINGS)
    torch.rand(5)
    before = torch.get_rng_state()
    sc.finetune(other, batches(), settings=SETTINGS)
    assert torch.equal(before, torch.get_rng_state()), "the caller's own draws are left alone"
    killed_after_two_epochs(torn, SETTINGS, tmp_path / "t.pt")
    torn = dropping()
    sc.finetune(torn, batches(), settings=SETTINGS, checkpoint=tmp_path / "t.pt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
        assert torch.equal(tensor, torn.state_dict()[name]), name


def test_another_network_in_place_of_the_one_that_was_trained_is_told(tmp_path):
    trained, other = small_network(), small_network(seed=9)
    sc.finetune(trained, batches(), settings=SETTINGS, checkpoint=tmp_path / "t.pt")
    with pytest.warns(UserWarning, match=r"t\.pt began with other weights than are given now \(conv1\.weight\)"):
        sc.finetune(other, batches(), settings=SETTINGS, checkpoint=tmp_path / "t.pt")
    assert torch.equal(other.linear.weight, trained.linear.weight)


def test_another_lesson_is_another_training(tmp_path):
    def twice(answer, labels):
        return 2 * F.cross_entropy(answer, labels)

    settings, place = replace(SETTINGS, epochs=1), tmp_path / "t.pt"
    sc.finetune(small_network(), batches(), settings=settings, checkpoint=place)
    for other in ({"loss": twice}, {"teacher": small_network(1)}):
        with pytest.raises(sc.CheckpointError, match="belongs to a training"):
            sc.finetune(small_network(), batches(), settings=settings, checkpoint=place, **other)
    saved = torch.load(place, weights_only=True)
    old = {name: value for name, value in saved["settings"].items() if name not in ("loss", "taught")}
    del saved["began"]
    torch.save(saved | {"settings": old}, place)
    sc.finetune(small_network(), batches(), settings=settings, checkpoint=place)  # of an older version


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    sc.finetune(small_network(), batches(), settings=replace(SETTINGS, epochs=1), checkpoint=tmp_path / "t.pt")
    with pytest.raises(sc.CheckpointError, match="belongs to a training"):
        sc.finetune(small_network(), batches(), settings=SETTINGS, checkpoint=tmp_path / "t.pt")
    (tmp_path / "t.pt").write_bytes(b"torn")
    with pytest.raises(sc.CheckpointError, match="cannot be resumed"):
        sc.finetune(small_network(), batches(), settings=SETTINGS, checkpoint=tmp_path / "t.pt")


def test_bad_training_input_is_one_clear_error():
    with pytest.raises(sc.DataError, match="no training batches"):
        sc.finetune(small_network(), [], settings=SETTINGS)
    with pytest.raises(sc.DataError, match="only once"):
        sc.finetune(small_network(), iter([two_blobs()]), settings=SETTINGS)
    with pytest.raises(sc.SecateurError, match="distil"):
        sc.FineTune(distil=2.0)
    with pytest.raises(sc.DataError, match="lower lr"):
        sc.finetune(small_network(), batches(), settings=replace(SETTINGS, lr=1e30, clip=1e30))


# ---- what else a training may do -------------------------------------------------------------------------------------


def test_an_average_of_the_weights_is_delivered_and_resumed(tmp_path):
    settings = replace(SETTINGS, averaging=0.9)
    plain, whole, torn = small_network(), small_network(), small_network()
    sc.finetune(plain, batches(), settings=SETTINGS)
    scores = []
    sc.finetune(whole, batches(), settings=settings, evaluate=lambda network: scores.append(network) or 0.0)
    assert all(network is not whole for network in scores), "what is scored is the average"
    assert not torch.equal(whole.linear.weight, plain.linear.weight)
    distance = (whole.linear.weight - plain.linear.weight).norm() / plain.linear.weight.norm()
    assert 0 < distance < 0.5

    killed_after_two_epochs(torn, settings, tmp_path / "t.pt")
    fresh = small_network()
    sc.finetune(fresh, batches(), settings=settings, checkpoint=tmp_path / "t.pt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


def test_the_schedule_ends_at_its_floor():
    def last_step(floor):
        seen, network, settings = [], small_network(), replace(SETTINGS, epochs=40, momentum=0.0, lr_floor=floor)

        def look(_):
            seen.append(network.linear.weight.detach().clone())

        sc.finetune(network, [two_blobs()], settings=settings, on_epoch=look)
        return float((seen[-1] - seen[-2]).norm())

    assert last_step(1.0) > 20 * last_step(0.0) > 0
    with pytest.raises(sc.SecateurError, match="lr_floor"):
        sc.FineTune(lr_floor=1.5)


def test_channel_numbers_are_not_averaged():
    network = nn.Sequential(nn.Conv2d(40, 2, 1), nn.Flatten(), nn.Linear(2, 2))
    numbers = torch.arange(1, 41)
    pick(network[0], numbers.clone())
    images = torch.randn(8, 64, 1, 1)
    sc.finetune(network, [(images, torch.arange(8) % 2)] * 3, settings=replace(SETTINGS, averaging=0.9))
    assert torch.equal(network[0].picked, numbers)


def test_batches_that_are_too_small_are_an_error():
    with pytest.raises(sc.DataError, match="fewer than two examples"):
        sc.finetune(small_network(), [(images[:1], labels[:1]) for images, labels in batches()], settings=SETTINGS)


def test_features_bring_the_student_to_see_as_the_teacher_does():
    def network(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))

    teacher, without, taught, images = network(1), network(0), network(0), two_blobs()[0]

    def apart(student):
        with torch.no_grad():
            return float((student[0](images) - teacher[0](images)).square().mean())

    before, settings = apart(taught), replace(SETTINGS, distil=0.0, epochs=10)
    sc.finetune(without, batches(), teacher=teacher, settings=settings)
    sc.finetune(taught, batches(), teacher=teacher, settings=replace(settings, features=("0",), feature_weight=5.0))
    assert apart(taught) < 0.2 * min(apart(without), before)
    assert not any(module._forward_hooks for network in (teacher, taught) for module in network.modules())


def test_a_network_that_answers_by_a_tuple_in_training_is_named():
    class Heads(nn.Linear):
        def forward(self, x):
            return super().forward(x), None

    with pytest.raises(sc.DataError, match="answers by a tuple"):
        sc.finetune(Heads(4, 2), [(torch.rand(4, 4), torch.zeros(4, dtype=torch.long))], epochs=1)


def test_features_that_cannot_be_compared_are_named():
    teacher = small_network(1)
    with pytest.raises(sc.DataError, match="no module 'layer9'"):
        sc.finetune(small_network(), batches(), teacher=teacher, settings=replace(SETTINGS, features=("layer9",)))
    student = small_network()
    with pytest.raises(sc.DataError, match="no module"):
        sc.finetune(student, batches(), teacher=teacher, settings=replace(SETTINGS, features=("layer1", "layer9")))
    assert not any(module._forward_hooks for module in student.modules())
    with pytest.raises(sc.DataError, match="give the dense network"):
        sc.finetune(student, batches(), settings=replace(SETTINGS, features=("layer1",)))
    wider = zoo.build("resnet20", 2, 1, width=8)
    with pytest.raises(sc.DataError, match="channels stay whole"):
        sc.finetune(small_network(), batches(), teacher=wider, settings=replace(SETTINGS, features=("layer1",)))
    with pytest.raises(sc.SecateurError, match="leave compile out"):
        sc.FineTune(features=("layer1",), compile=True)
    with pytest.raises(sc.SecateurError, match="averaging"):
        sc.FineTune(averaging=1.0)


TOGETHER = """
import sys, torch
from torch import nn
import secateur as sc
from secateur.data import TrainBatches

torch.manual_seed(0)
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(1)
images, labels = torch.randn(50, 1, 8, 8, generator=generator), torch.arange(50) % 2
network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
told = []
history = sc.finetune(
    network,
    TrainBatches(images, labels, 15, seed=0, crop_pad=1),
    settings=sc.FineTune(epochs=3, lr=0.05, precision="float32"),
    evaluate=sc.accuracy(images, labels),
    checkpoint=sys.argv[1] + "/training.pt",
    on_epoch=told.append,
)
import glob, os
threads = [open(place).read() for place in glob.glob("/proc/self/task/*/comm")]
assert not any("gloo" in name for name in threads), "gloo's threads outlive the training, and may abort its process"
torch.save({"weights": network.state_dict(), "losses": [epoch.loss for epoch in history],
            "scores": [epoch.score for epoch in history], "told": len(told)},
           f"{sys.argv[1]}/{os.environ.get('RANK', 'alone')}.pt")
"""


def test_two_processes_train_as_one_does(tmp_path):
    """Batches of 15 in parts of 8 and 7, by gloo: the same weights, up to rounding, and only the first one speaks."""
    script = tmp_path / "train.py"
    script.write_text(TOGETHER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for place, command in (
        (tmp_path / "one", [sys.executable]),
        (tmp_path / "two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
    ):
        place.mkdir()
        done = subprocess.run(
            [*command, script, place], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    alone = torch.load(tmp_path / "one" / "alone.pt")
    first, second = (torch.load(tmp_path / "two" / f"{rank}.pt") for rank in (0, 1))
    assert (alone["told"], first["told"], second["told"]) == (3, 3, 0)
    assert first["scores"] == second["scores"] == alone["scores"]
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    for name, tensor in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], tensor, rtol=1e-4, atol=1e-5)


# ---- what it is fed --------------------------------------------------------------------------------------------------


class Wide(nn.Module):
    """Answers for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


X = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
FLAT = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


@pytest.mark.parametrize(
    ("network", "batch", "says"),
    [
        (FLAT, (X, torch.rand(8)), r"labels \[8\] of float32: for logits \[8, 3\] .* \[8\] of int64"),
        (FLAT, (X, torch.rand(8, 3)), r"labels \[8, 3\] of float32"),
        (FLAT, (X, torch.zeros(8, dtype=torch.int32)), "of int32"),
        (FLAT, (X, torch.full((8,), 3)), "label 3: the network tells 3 classes apart"),
        (FLAT, {"x": X, "y": torch.zeros(8)}, "a dict, not pairs"),
        (FLAT, X, "a Tensor, not pairs"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), (X, torch.zeros(8).long()), "of two classes or more"),
        (Wide(), (X, torch.zeros(8).long()), r"class indices \[8, 6, 6\]"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(network, batch, says):
    with pytest.raises(sc.DataError, match=says):
        sc.finetune(copy.deepcopy(network), [batch], epochs=1)


def test_a_loss_of_ones_own_takes_the_place_of_the_labels_and_the_teachers():
    settings, teacher = replace(SETTINGS, distil=0.3, temperature=2.0), small_network(1)

    def alike(answer, labels, taught):
        hard = F.cross_entropy(answer, labels)
        soft = F.kl_div(
            F.log_softmax(answer / 2, 1), F.log_softmax(taught / 2, 1), reduction="batchmean", log_target=True
        )
        return 0.3 * soft * 4 + 0.7 * hard

    for taught, loss in ({}, F.cross_entropy), ({"teacher": teacher}, alike):
        usual, own = small_network(), small_network()
        sc.finetune(usual, batches(), settings=settings, **taught)
        sc.finetune(own, batches(), settings=settings, loss=loss, **taught)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(usual.parameters(), own.parameters(), strict=True))


def test_a_loss_of_ones_own_trains_what_is_no_classifier():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 1), nn.Linear(6, 2)

        def forward(self, x):
            return {"one": self.first(x).squeeze(1), "two": self.second(x)}

    def loss(answer, labels):
        return F.mse_loss(answer["one"], labels[:, 0]) + F.mse_loss(answer["two"], labels[:, 1:])

    torch.manual_seed(0)
    inputs = torch.rand(64, 6)
    labels = inputs @ torch.rand(6, 3)
    history = sc.finetune(Heads(), [(inputs, labels)] * 20, loss=loss, settings=replace(SETTINGS, epochs=8, lr=0.1))
    assert history[-1].loss < 0.1 * history[0].loss


@pytest.mark.parametrize("given", [nn.CrossEntropyLoss(reduction="none"), lambda answer, labels: 1.0])
def test_a_loss_that_is_no_number_of_a_tensor_is_refused(given):
    with pytest.raises(sc.DataError, match=r"loss gives a .* one number, the mean over the batch"):
        sc.finetune(copy.deepcopy(FLAT), [(X, torch.zeros(8).long())], loss=given, epochs=1)


def test_a_teacher_of_other_classes_and_a_frozen_network_are_refused():
    batch = (X, torch.zeros(8).long())
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with pytest.raises(sc.DataError, match=r"logits are \[8, 3\], the teacher's \[8, 4\]"):
        sc.finetune(copy.deepcopy(FLAT), [batch], teacher=teacher, epochs=1)
    with pytest.raises(sc.DataError, match="nothing to train"):
        sc.finetune(copy.deepcopy(FLAT).requires_grad_(False), [batch], epochs=1)


def test_a_teacher_of_every_pixel_weighs_the_same_whatever_their_number():
    settings, losses = sc.FineTune(epochs=1, distil=1.0, precision="float32", lr=1e-9), []
    torch.manual_seed(0)
    student, teacher = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)
    for side in (4, 12):
        images = X[:, :, :1, :1].expand(-1, -1, side, side)
        batch = (images, torch.zeros(8, side, side).long())
        losses.append(sc.finetune(copy.deepcopy(student), [batch], teacher=teacher, settings=settings)[0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] > 0.01
