"""The data formats, read back and refused; splits and batches."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from secateur.data import Dataset, TrainBatches, batches, load_dataset, split
from secateur.errors import DataError

CIFAR_BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def colour(count: int, side: int = 6, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def medmnist(**changes: object) -> dict[str, object]:
    arrays = {
        "train_images": colour(12),
        "train_labels": np.arange(12, dtype=np.uint8) % 3,
        "test_images": colour(6, seed=1),
        "test_labels": np.arange(6, dtype=np.uint8) % 3,
    }
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def save(path: Path, **changes: object) -> Path:
    np.savez(path, **medmnist(**changes))  # type: ignore[arg-type]
    return path


# ---- digits ------------------------------------------------------------------------------------------------


def test_digits() -> None:
    digits = load_dataset("digits")
    assert digits.train_images.shape == (1197, 8, 8, 1)
    assert digits.test_images.shape == (600, 8, 8, 1)
    assert (digits.num_classes, digits.in_channels, digits.name) == (10, 1, "digits")
    assert (digits.train_images.dtype, digits.train_images.max()) == (np.uint8, 255)
    # Each class has its third of the test images, give or take the rounding.
    every = np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
    assert np.abs(np.bincount(digits.test_labels) - every * 600 / 1797).max() < 1
    again = load_dataset("digits")
    assert np.array_equal(digits.test_images, again.test_images)


def test_tensors_are_normalised() -> None:
    digits = load_dataset("digits")
    tensors = digits.tensors(digits.train_images)
    assert (tensors.shape, tensors.dtype) == ((1197, 1, 8, 8), torch.float32)
    assert tensors.is_contiguous()
    assert tensors.mean().item() == pytest.approx(0, abs=1e-4)
    assert tensors.std().item() == pytest.approx(1, abs=1e-3)


# ---- .npz --------------------------------------------------------------------------------------------------


def test_npz_round_trip(tmp_path: Path) -> None:
    dataset = load_dataset(str(save(tmp_path / "d.npz", lossless=np.ones(18, bool))))
    arrays = medmnist()
    assert np.array_equal(dataset.train_images, arrays["train_images"])  # type: ignore[arg-type]
    assert np.array_equal(dataset.test_labels, arrays["test_labels"])  # type: ignore[arg-type]
    assert (dataset.num_classes, dataset.in_channels, dataset.validation) == (3, 3, 0)
    assert dataset.train_labels.dtype == np.int64
    pixels = dataset.train_images / 255
    assert dataset.mean == pytest.approx(tuple(pixels.mean((0, 1, 2))))
    assert dataset.std == pytest.approx(tuple(pixels.std((0, 1, 2))))


def test_npz_grey_images_column_labels_and_validation(tmp_path: Path) -> None:
    path = save(
        tmp_path / "d.npz",
        train_images=colour(12)[..., 0],
        train_labels=np.arange(12)[:, None] % 3,
        test_images=colour(6)[..., :1],
        val_images=colour(4, seed=9)[..., 0],
        val_labels=np.array([[2], [1], [0], [0]]),
    )
    dataset = load_dataset(path)
    assert dataset.train_images.shape == (16, 6, 6, 1)
    assert dataset.validation == 4
    assert dataset.train_labels[-4:].tolist() == [2, 1, 0, 0]
    assert set(split(dataset, 3, 2, seed=0).reward) < {12, 13, 14, 15}


def test_given_statistics_are_used(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path / "d.npz"), mean=(0.5, 0.4, 0.3), std=[0.2, 0.25, 0.5])
    expected = (dataset.test_images[2, 1, 5] / 255 - np.array(dataset.mean)) / np.array(dataset.std)
    assert dataset.tensors(dataset.test_images)[2, :, 1, 5].numpy() == pytest.approx(expected, rel=1e-5)
    for wrong in ({"mean": (0.5,)}, {"std": (0.2, 0.2, 0.0)}, {"std": (0.2, 0.2, float("nan"))}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            load_dataset(tmp_path / "d.npz", **wrong)


def test_constant_images_stay_finite(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path / "d.npz", train_images=np.full((12, 6, 6, 3), 7, np.uint8)))
    assert dataset.tensors(dataset.test_images).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_images": None}, "test_images is missing"),
        ({"train_labels": None}, "train_labels is missing"),
        ({"val_images": colour(2)}, "val_labels is missing"),
        ({"train_images": colour(12).astype(np.float32)}, r"train_images is float32 .*uint8"),
        ({"train_images": colour(12)[..., :2]}, r"\[12, 6, 6, 2\]"),
        ({"train_images": colour(0), "train_labels": np.zeros(0, int)}, "not empty"),
        ({"test_images": colour(6, side=5)}, "test_images are .*but train_images are"),
        ({"train_labels": np.arange(11) % 3}, r"train_labels is int64 \[11\]; .*\[12\]"),
        ({"train_labels": np.zeros((12, 14), int)}, r"one whole number per image"),
        ({"train_labels": np.zeros(12)}, "float64"),
        ({"train_labels": np.arange(12) - 1}, "run from -1 to 10"),
        ({"train_labels": np.full(12, 2**63, np.uint64)}, "number the classes from 0"),
        ({"test_labels": np.array([0, 1, 2, 3, 0, 0])}, "test_labels has label 3; only 0 to 2"),
        ({"train_images": np.array([{"a": 1}], object)}, "not a readable .npz"),
    ],
)
def test_npz_refusals(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = save(tmp_path / "d.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value)


def test_npz_torn_anywhere_is_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npz").read_bytes()
    torn = tmp_path / "torn.npz"
    for size in range(0, len(whole), 53):
        torn.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"torn\.npz"):
            load_dataset(torn)


def test_npz_with_flipped_bytes_never_fails_otherwise(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npz").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        (tmp_path / "damaged.npz").write_bytes(damaged)
        try:
            load_dataset(tmp_path / "damaged.npz")
        except DataError:
            continue


def test_npz_members_that_are_no_arrays(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        for key in ("train_images", "train_labels", "test_images", "test_labels"):
            archive.writestr(f"{key}.npy", "hello")
    with pytest.raises(DataError, match="train_images is"):
        load_dataset(tmp_path / "d.npz")
    np.save(tmp_path / "array.npy", colour(2))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(DataError, match="single array"):
        load_dataset(tmp_path / "array.npz")


def test_missing_sources() -> None:
    with pytest.raises(DataError, match=r"/no/such\.npz: no such file"):
        load_dataset("/no/such.npz")
    with pytest.raises(DataError, match="digitz: no such data set; give 'digits'"):
        load_dataset("digitz")


def test_image_size_that_disagrees(tmp_path: Path) -> None:
    assert load_dataset(save(tmp_path / "d.npz"), image_size=6).train_images.shape[1] == 6
    with pytest.raises(DataError, match="6 x 6, not image_size 224"):
        load_dataset(tmp_path / "d.npz", image_size=224)


# ---- CIFAR-10 ----------------------------------------------------------------------------------------------


def planes(number: int, count: int = 4) -> NDArray[np.uint8]:
    """Pixels [count, 3072] in CIFAR's order."""
    return np.random.default_rng(number).integers(0, 256, (count, 3072), dtype=np.uint8)


def python2_pickle(pixels: NDArray[np.uint8], labels: list[int]) -> bytes:
    """As Python 2's cPickle wrote the official files: byte strings throughout."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(" + b"".join(b"J" + struct.pack("<i", size) for size in pixels.shape) + b"t"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x06labels" + listed + b"U\x04data" + array + b"U\x0bbatch_labelU\x03oneu."


def write_cifar(folder: Path, spell: str) -> Path:
    folder.mkdir()
    for number, name in enumerate(CIFAR_BATCHES):
        pixels, labels = planes(number), [number, 9, 0, 1]
        if spell == "binary":
            records = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        elif spell == "python 2":
            (folder / name).write_bytes(python2_pickle(pixels, labels))
        else:
            protocol = int(spell.removeprefix("protocol "))
            batch = {b"data": pixels, b"labels": labels, b"filenames": [b"a.png"] * 4}
            (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return folder


@pytest.mark.parametrize("spell", ["binary", "python 2", *(f"protocol {n}" for n in range(6))])
def test_cifar10_folders(tmp_path: Path, spell: str) -> None:
    dataset = load_dataset(write_cifar(tmp_path / "cifar", spell))
    assert dataset.train_images.shape == (20, 32, 32, 3)
    assert dataset.train_labels.tolist() == [label for number in range(5) for label in (number, 9, 0, 1)]
    assert dataset.test_labels.tolist() == [5, 9, 0, 1]
    assert dataset.num_classes == 10
    expected = np.concatenate([planes(number) for number in range(5)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(dataset.train_images, expected.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (planes(3), np.array([3, 1, 2, 0])),
        (planes(3), list(np.array([3, 1, 2, 0], ">i4"))),
        (np.asfortranarray(planes(3)), (3, 1, 2, 0)),
    ],
)
def test_cifar10_batches_of_other_writers(tmp_path: Path, protocol: int, data: object, labels: object) -> None:
    folder = write_cifar(tmp_path / "cifar", "protocol 4")
    (folder / "test_batch").write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol))
    dataset = load_dataset(folder)
    assert dataset.test_labels.tolist() == [3, 1, 2, 0]
    assert np.array_equal(dataset.test_images, planes(3).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


class Calls:
    """Pickles into a call of `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    folder = write_cifar(tmp_path / "cifar", "protocol 4")
    evil = Calls(os.mkdir, str(tmp_path / "ran"))
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": evil, b"labels": [1]}, protocol))
    with pytest.raises(DataError, match=r"data_batch_3: not a CIFAR-10 batch \(it would run .*mkdir"):
        load_dataset(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.array, bytearray, Path])
def test_only_parts_of_arrays_may_be_named(tmp_path: Path, function: object) -> None:
    folder = write_cifar(tmp_path / "cifar", "protocol 4")
    (folder / "test_batch").write_bytes(pickle.dumps([Calls(function, "1")]))
    with pytest.raises(DataError, match="it would run"):
        load_dataset(folder)


def test_a_pickled_pointer_is_not_followed(tmp_path: Path) -> None:
    # An object dtype whose flags deny that it holds pointers: numpy's own unpickling would follow 0x41.
    lying = Calls(np.dtype, "O", False, True)
    state = (3, "|", None, None, None, -1, -1, 0)
    lying.call = (*lying.call, state)  # type: ignore[assignment]
    reconstruct, arguments, _ = planes(0).__reduce__()  # type: ignore[misc]
    array = Calls(reconstruct, *arguments)
    array.call = (*array.call, (1, (1,), lying, False, struct.pack("<Q", 0x41)))  # type: ignore[assignment]
    folder = write_cifar(tmp_path / "cifar", "protocol 4")
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": array, b"labels": [1]}, 2))
    with pytest.raises(DataError, match=r"array of \|O"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"data": planes(0)}, "it has no 'labels'"),
        ([1, 2], "not a CIFAR-10 batch"),
        ({b"data": planes(0), b"labels": [1, 2, 3]}, "4 images of uint8 and labels .3."),
        ({b"data": planes(0), b"labels": [[1], [2], [3], [0]]}, "and labels .4, 1."),
        ({b"data": planes(0)[:, :99], b"labels": [1, 2, 3, 0]}, "cannot reshape"),
        ({b"data": planes(0).astype(float), b"labels": [1, 2, 3, 0]}, "array of <f8"),
        ({b"data": planes(0).astype(int), b"labels": [1, 2, 3, 0]}, "images of int64"),
        ({b"data": planes(0), b"labels": [1, 2, 3, 10]}, "label 10; only 0 to 9"),
        ({b"data": planes(0), b"labels": ["a", "b", "c", "d"]}, "test_labels is"),
        ({b"data": "pixels", b"labels": [1]}, "not a CIFAR-10 batch"),
    ],
)
def test_cifar10_refusals(tmp_path: Path, batch: object, message: str) -> None:
    folder = write_cifar(tmp_path / "cifar", "protocol 4")
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match=message):
        load_dataset(folder)


@pytest.mark.parametrize("spell", ["binary", "protocol 2", "protocol 5"])
def test_cifar10_torn_or_incomplete(tmp_path: Path, spell: str) -> None:
    folder = write_cifar(tmp_path / "cifar", spell)
    batch = next(folder.glob("data_batch_2*"))
    whole = batch.read_bytes()
    for size in range(0, len(whole) - 1, 997):
        batch.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"data_batch_2\S*: not a CIFAR-10 batch"):
            load_dataset(folder)
    batch.unlink()
    with pytest.raises(DataError, match=f"{batch.name}: no such file; unpack"):
        load_dataset(folder)


# ---- image folders -----------------------------------------------------------------------------------------


def write_images(folder: Path, count: int, value: int, size: tuple[int, int] = (20, 12)) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (value, number, 0)).save(folder / f"{number:03}.png")
    (folder / "notes.txt").write_text("not an image")
    (folder / "._000.png").write_text("not an image either")


def test_image_folder_with_parts(tmp_path: Path) -> None:
    for value, name in enumerate(("ant", "bee", "cow")):
        write_images(tmp_path / "train" / name, 4, value)
        write_images(tmp_path / "test" / name, 2, value)
        write_images(tmp_path / "val" / name, 1, value)
    dataset = load_dataset(str(tmp_path), image_size=8)
    assert dataset.train_images.shape == (15, 8, 8, 3)
    assert dataset.validation == 3
    assert dataset.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(dataset.test_images[:, 0, 0, 0], dataset.test_labels)
    assert np.array_equal(dataset.train_images[:, 7, 7, 0], dataset.train_labels)


def test_image_folder_with_val_for_test(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant", 4, 0)
    write_images(tmp_path / "val" / "ant", 2, 0)
    dataset = load_dataset(tmp_path, image_size=8)
    assert (len(dataset.train_labels), len(dataset.test_labels), dataset.validation) == (4, 2, 0)


def test_image_folder_of_classes_is_divided(tmp_path: Path) -> None:
    for value, name in enumerate(("ant", "bee")):
        write_images(tmp_path / name, 10, value)
    dataset = load_dataset(tmp_path, image_size=8)
    assert np.bincount(dataset.train_labels).tolist() == [8, 8]
    assert np.bincount(dataset.test_labels).tolist() == [2, 2]
    seen = np.concatenate([dataset.train_images, dataset.test_images])[:, 0, 0, :2]
    assert sorted(map(tuple, seen.tolist())) == [(value, number) for value in (0, 1) for number in range(10)]
    assert np.array_equal(dataset.test_images, load_dataset(tmp_path, image_size=8).test_images)


def test_one_image_a_class_is_divided_too(tmp_path: Path) -> None:
    for value in range(10):
        write_images(tmp_path / f"{value:04}", 1, value)
    dataset = load_dataset(tmp_path, image_size=8)
    assert (len(dataset.train_labels), len(dataset.test_labels), dataset.num_classes) == (8, 2, 10)


def test_images_are_resized_by_the_short_side_and_cropped_in_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, 8:24] = 200
    for name, pixels in (("a", wide), ("b", wide.transpose(1, 0, 2))):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / name / f"{number}.png")
    dataset = load_dataset(tmp_path, image_size=4)
    assert dataset.train_images.min() == 200


def test_grey_and_palette_images_become_colour(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number, mode in enumerate(("L", "P", "RGBA", "1", "CMYK")):
            ending = "tif" if mode == "CMYK" else "png"
            Image.new("RGB", (9, 9)).convert(mode).save(tmp_path / name / f"{number}.{ending}")
    assert load_dataset(tmp_path, image_size=9).train_images.shape == (8, 9, 9, 3)


@pytest.mark.parametrize(("kind", "ending"), [(np.uint16, "png"), (np.uint16, "tif"), (np.float32, "tif")])
def test_images_of_more_than_8_bits_are_refused(tmp_path: Path, kind: type, ending: str) -> None:
    """Pillow would cut all above 255 off."""
    for name in ("a", "b"):
        write_images(tmp_path / name, 4, 0)
    Image.fromarray(np.full((9, 9), 1000, kind)).save(tmp_path / "b" / f"deep.{ending}")
    with pytest.raises(DataError, match=rf"deep\.{ending} has more than 8 bits"):
        load_dataset(tmp_path, image_size=9)


def test_a_class_that_is_not_in_test_is_told(tmp_path: Path) -> None:
    for place in ("train/ant", "train/bee", "test/bee"):
        write_images(tmp_path / place, 2, 0)
    with pytest.warns(UserWarning, match="test has no images of ant"):
        assert load_dataset(tmp_path, image_size=8).num_classes == 2


def test_image_folder_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no class folders"):
        load_dataset(tmp_path, image_size=8)
    write_images(tmp_path / "train" / "ant", 2, 0)
    with pytest.raises(DataError, match="needs image_size"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="neither test nor val"):
        load_dataset(tmp_path, image_size=8)
    write_images(tmp_path / "test" / "bee", 2, 0)
    with pytest.raises(DataError, match="bee: no such class in the training folder"):
        load_dataset(tmp_path, image_size=8)
    with monkeypatch.context() as patch:
        patch.setattr("secateur.data.formats.CONTAINER", tmp_path / "limit")
        (tmp_path / "limit").write_text("1000\n")
        with pytest.raises(DataError, match="images at image_size 8 take 0 GB of memory, this machine has 0"):
            load_dataset(tmp_path / "train", image_size=8)
    with pytest.raises(DataError, match=r"2 images at image_size 2000000 take .* GB of memory, this machine has"):
        load_dataset(tmp_path / "train", image_size=2_000_000)
    write_images(tmp_path / "train" / "bee", 0, 0)
    with pytest.raises(DataError, match="bee: no images"):
        load_dataset(tmp_path, image_size=8)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tif", "ppm"])
def test_a_broken_image_is_named(tmp_path: Path, ending: str) -> None:
    (tmp_path / "ant").mkdir()
    for number in range(5):
        Image.fromarray(colour(1, 40)[0]).save(tmp_path / "ant" / f"{number}.{ending}")
    broken = tmp_path / "ant" / f"3.{ending}"
    whole = broken.read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=rf"3\.{ending}: not a readable image"):
            load_dataset(tmp_path, image_size=8)


# ---- splits and batches ------------------------------------------------------------------------------------


def in_memory(labels: NDArray[np.int64], validation: int = 0) -> Dataset:
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return Dataset(images, labels, images, labels, (0.0,), (1.0,), "made up", validation)


def test_split_is_stratified_disjoint_and_repeatable() -> None:
    labels = np.repeat(np.arange(4), [100, 200, 300, 400])
    parts = split(in_memory(labels), reward=100, calibration=50, seed=3)
    assert np.bincount(labels[parts.reward]).tolist() == [10, 20, 30, 40]
    assert np.bincount(labels[parts.calibration]).tolist() == [5, 10, 15, 20]
    assert sorted([*parts.train, *parts.reward]) == list(range(1000))
    assert set(parts.calibration) <= set(parts.train)
    again, other = (split(in_memory(labels), 100, 50, seed) for seed in (3, 4))
    assert np.array_equal(parts.reward, again.reward)
    assert not np.array_equal(parts.reward, other.reward)


def test_split_at_its_limits() -> None:
    labels = np.arange(10) % 2
    assert len(split(in_memory(labels), 0, 0, 0).train) == 10
    assert sorted(split(in_memory(labels), 4, 6, 0).calibration) == sorted(split(in_memory(labels), 4, 6, 0).train)
    assert set(split(in_memory(labels, validation=4), 4, 0, 0).reward) == {6, 7, 8, 9}
    assert len(split(in_memory(labels, validation=4), 5, 0, 0).reward) == 5
    for reward, calibration in ((10, 0), (4, 7), (-1, 2), (2, -1)):
        with pytest.raises(DataError, match=r"made up: .* do not fit in 10 training images"):
            split(in_memory(labels), reward, calibration, 0)


def test_batches_cover_everything_in_order() -> None:
    images, labels = torch.arange(10).view(10, 1, 1, 1), torch.arange(10)
    pairs = list(batches(images, labels, 4))
    assert [len(part) for part, _ in pairs] == [4, 4, 2]
    assert torch.equal(torch.cat([part for _, part in pairs]), labels)
    assert torch.equal(torch.cat(list(batches(images, None, 3))), images)


def numbered(count: int, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 2, side, side] of distinct non-zero pixels, and their numbers."""
    return torch.arange(1.0, 1 + count * 2 * side * side).view(count, 2, side, side), torch.arange(count)


def test_train_batches_hold_every_image_once() -> None:
    images, labels = numbered(10)
    loader = TrainBatches(images, labels, 4, seed=0, crop_pad=0, flip=False)
    first, second = list(loader), list(loader)
    assert [len(part) for part, _ in first] == [4, 4, 2]
    assert len(loader) == 3
    for epoch in (first, second):
        numbers = torch.cat([part for _, part in epoch])
        assert sorted(numbers.tolist()) == list(range(10))
        assert torch.equal(torch.cat([part for part, _ in epoch]), images[numbers])
    assert not torch.equal(first[0][1], second[0][1])


def test_train_batches_resume_at_any_epoch() -> None:
    images, labels = numbered(10)
    straight = TrainBatches(images, labels, 4, seed=5)
    epochs = [list(straight) for _ in range(3)]
    resumed = TrainBatches(images, labels, 4, seed=5)
    resumed.set_epoch(2)
    for (before, _), (after, _) in zip(epochs[2], resumed, strict=True):
        assert torch.equal(before, after)
    other = TrainBatches(images, labels, 4, seed=6)
    assert not torch.equal(next(iter(other))[0], epochs[0][0][0])


def test_train_batches_shift_and_mirror() -> None:
    images, labels = numbered(400, side=6)
    loader = TrainBatches(images, labels, 400, seed=0, crop_pad=2)
    ((augmented, numbers),) = list(loader)
    found = set()
    for image, number in zip(augmented, numbers, strict=True):
        padded = torch.nn.functional.pad(images[number], [2] * 4)
        matches = [
            (down, right, mirrored)
            for down in range(5)
            for right in range(5)
            for mirrored in (False, True)
            if torch.equal(padded[:, down : down + 6, right : right + 6].flip([2] if mirrored else []), image)
        ]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) == 50
    unflipped = TrainBatches(images, labels, 400, seed=0, crop_pad=0, flip=False)
    ((plain, numbers),) = list(unflipped)
    assert torch.equal(plain, images[numbers])


def test_train_batches_leave_out_a_last_image_alone() -> None:
    images, labels = numbered(9)
    assert [len(part) for _, part in TrainBatches(images, labels, 4, seed=0)] == [4, 4]
    assert len(TrainBatches(images, labels, 1, seed=0)) == 9


def test_train_batches_refusals() -> None:
    images, labels = numbered(9)
    with pytest.raises(DataError, match="make no batch"):
        TrainBatches(images[:1], labels[:1], 4, seed=0)
    with pytest.raises(DataError, match=r"\[N, C, H, W\] and \[N\]"):
        TrainBatches(images, labels[:8], 4, seed=0)
    with pytest.raises(DataError, match="batch_size 0"):
        TrainBatches(images, labels, 0, seed=0)
