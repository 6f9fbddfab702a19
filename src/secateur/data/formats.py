"""The data formats, read into plain arrays under MedMNIST's names: {train,val,test}_{images,labels}.

A file that cannot be read is refused here; whether its arrays make a data set is seen in `dataset.py`.
"""

import math
import os
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from secateur.data.stratified import stratified
from secateur.errors import DataError

Arrays = dict[str, NDArray[Any]]
COPIES = 3
"""Bytes a value that are needed for a while, beside the five that stay: a part's pixels, and most of its tensor."""
CONTAINER = Path("/sys/fs/cgroup/memory.max")
"""Where Linux tells what a container may use; "max" where there is no limit."""

_KEYS = [f"{part}_{kind}" for part in ("train", "val", "test") for kind in ("images", "labels")]
_IMAGE_ENDINGS = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_DEEP = ("I", "F")
"""What pillow's modes of more than 8 bits a pixel begin with."""
# What numpy, pickle and pillow raise on damaged files (MemoryError for an absurd size in a header).
_DAMAGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError,
    pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
# Where numpy's pickles find what they build arrays with; numpy 2 renamed numpy.core to numpy._core.
_ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


def read_digits() -> Arrays:
    """scikit-learn's 1,797 digits, 8 x 8 grey, 0..16 stretched to 0..255; always the same 600 for test."""
    from sklearn.datasets import load_digits  # a slow import that only this format needs

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    train, test = _divide(digits.target, 600)
    return {
        "train_images": images[train],
        "train_labels": digits.target[train],
        "test_images": images[test],
        "test_labels": digits.target[test],
    }


def read_npz(path: Path) -> Arrays:
    """An .npz file with MedMNIST's key names; other keys are not even read."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            # A member that is no array at all comes out as bytes.
            return {key: np.asarray(archive[key]) for key in _KEYS if key in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except _DAMAGE as error:
        raise DataError(
            f"{path}: not a readable .npz of plain arrays ({error}); save it again with numpy.savez"
        ) from error


def _divide(labels: NDArray[np.int64], test: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted train and test indices, `test` of the latter, always the same for the same labels."""
    chosen = np.sort(stratified(labels, test, np.random.default_rng(0)))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def read_cifar10(folder: Path) -> Arrays:
    """The official folder, pickled or binary: five training batches and a test batch."""
    ending = ".bin" if any(folder.glob("*.bin")) else ""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    batches = [_cifar_batch(folder / f"{name}{ending}") for name in names]
    return {
        "train_images": np.concatenate([images for images, _ in batches[:5]]),
        "train_labels": np.concatenate([labels for _, labels in batches[:5]]),
        "test_images": batches[5][0],
        "test_labels": batches[5][1],
    }


def _cifar_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Images uint8 [N, 32, 32, 3] and labels [N] of one batch file."""
    try:
        if path.suffix == ".bin":
            records = np.fromfile(path, np.uint8).reshape(-1, 1 + 3072)
            pixels, labels = records[:, 1:], records[:, 0]
        else:
            with path.open("rb") as file:
                batch = dict(_StandInUnpickler(file, encoding="bytes").load())
            pixels, labels = _integers(batch, "data"), _integers(batch, "labels")
        if pixels.dtype != np.uint8 or labels.shape != pixels.shape[:1] or labels.size == 0:
            raise ValueError(f"{len(pixels)} images of {pixels.dtype} and labels {list(labels.shape)}")
        return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; unpack the whole CIFAR-10 archive again") from error
    except _DAMAGE as error:
        raise DataError(f"{path}: not a CIFAR-10 batch ({error}); unpack the official archive again") from error


class _StandIn:
    """Takes the place of numpy's parts in a pickle, and only remembers its arguments and state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _latin1(text: str, _: object) -> bytes:
    """_codecs.encode as protocols up to 2 call it, for all their bytes."""
    return text.encode("latin1")


class _StandInUnpickler(pickle.Unpickler):
    """Runs nothing that a pickle names: the parts of numpy arrays become stand-ins, all else is refused.

    Not even numpy's reconstruction is called: a crafted dtype makes it follow pointers that the file gives.
    """

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module.replace("numpy._core", "numpy.core"), name) in _ARRAY_PARTS:
            return _StandIn
        raise pickle.UnpicklingError(f"it would run {module}.{name}")


def _integers(batch: dict[Any, Any], key: str) -> NDArray[Any]:
    """The integers under `key`, spelt as str or bytes: a list of them, or a stand-in for an array."""
    for spelling in (key.encode(), key):
        if spelling in batch:
            value = batch[spelling]
            return _array(value) if isinstance(value, _StandIn) else np.array([*map(_number, value)])
    raise ValueError(f"it has no {key!r}")


def _number(item: Any) -> Any:
    return _array(item)[()] if isinstance(item, _StandIn) else item


def _array(value: _StandIn) -> NDArray[Any]:
    """The array of integers that a stand-in describes, in any of the three ways that numpy spells one."""
    if value.state is not None:  # _reconstruct(...), then ndarray.__setstate__
        _, shape, dtype, fortran, raw = value.state
    elif len(value.arguments) == 4:  # _frombuffer(...)
        raw, dtype, shape, order = value.arguments
        fortran = order == "F"
    else:  # scalar(...)
        (dtype, raw), shape, fortran = value.arguments, (), False
    kind, byte_order = dtype.arguments[0], dtype.state[1]
    spelt = "".join(part.decode() if isinstance(part, bytes) else part for part in (byte_order, kind))
    if not re.fullmatch("[<>|=][iu][1248]", spelt):
        raise ValueError(f"it has an array of {spelt}, not of integers")
    return np.frombuffer(raw, spelt).reshape(shape, order="F" if fortran else "C")


def read_image_folder(root: Path, image_size: int | None) -> tuple[Arrays, int]:
    """Images uint8 [N, image_size, image_size, 3] from root/{train,val,test}/<class>/*, and how many classes.

    Without a test folder, val is the test part; without a train folder, root/<class>/* is divided 80/20.
    """
    if image_size is None or image_size < 1:
        raise DataError(f"{root}: an image folder needs image_size, the side of its cropped images in pixels")
    files, labels = {}, {}
    if (root / "train").is_dir():
        classes = _class_names(root / "train")
        folders = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
        if "test" not in folders and "val" in folders:
            folders["test"] = folders.pop("val")
        if "test" not in folders:
            raise DataError(
                f"{root}: there is train, but neither test nor val beside it; add what is to be reported on"
            )
        for part, folder in folders.items():
            files[part], labels[part] = _class_files(folder, classes)
            if absent := [classes[number] for number in {*range(len(classes))} - {*labels[part].tolist()}]:
                warnings.warn(f"{folder} has no images of {', '.join(sorted(absent))}, as train has", stacklevel=2)
    else:
        classes = _class_names(root)
        found, numbers = _class_files(root, classes)
        for part, chosen in zip(("train", "test"), _divide(numbers, max(1, len(found) // 5)), strict=True):
            files[part], labels[part] = [found[index] for index in chosen], numbers[chosen]
    _check_memory(root, sum(map(len, files.values())), image_size)
    images = {f"{part}_images": _decode(files[part], image_size) for part in files}
    return images | {f"{part}_labels": labels[part] for part in files}, len(classes)


def _class_names(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: no class folders; put each class's images in a folder of its own")
    return names


def _class_files(folder: Path, classes: Sequence[str]) -> tuple[list[Path], NDArray[np.int64]]:
    """The image files under folder/<class>/ in a fixed order, and the class number of each."""
    files: list[Path] = []
    labels: list[int] = []
    for name in _class_names(folder):
        if name not in classes:
            raise DataError(f"{folder / name}: no such class in the training folder; add or remove it")
        images = sorted(path for path in (folder / name).glob("[!.]*") if path.suffix.lower() in _IMAGE_ENDINGS)
        if not images:
            endings = ", ".join(sorted(_IMAGE_ENDINGS))
            raise DataError(f"{folder / name}: no images ({endings}); fill or remove it")
        files += images
        labels += [classes.index(name)] * len(images)
    return files, np.array(labels, np.int64)


def _check_memory(root: Path, count: int, size: int) -> None:
    """Refuse what this machine cannot hold: pixels of one byte, and of four as tensors, which are made of copies."""
    need, have = count * size * size * 3 * (1 + 4 + COPIES), _memory()
    if need > have:
        raise DataError(
            f"{root}: {count:,} images at image_size {size} take {need / 1e9:.0f} GB of memory, this machine has "
            f"{have / 1e9:.0f}; give a folder with fewer of them"
        )


def _memory() -> float:
    """Bytes of memory of this machine, or of the container that this runs in; infinite where neither says."""
    found = [math.inf]
    with suppress(AttributeError, ValueError, OSError):
        found.append(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    with suppress(ValueError, OSError):
        found.append(float(CONTAINER.read_text()))
    return min(found)


def _decode(files: Sequence[Path], size: int) -> NDArray[np.uint8]:
    """Colour images [N, size, size, 3]: the short side resized to `size`, the middle of the long one kept."""
    images = np.empty((len(files), size, size, 3), np.uint8)
    for index, path in enumerate(files):
        try:
            with Image.open(path) as image:
                if image.mode.startswith(_DEEP):
                    raise DataError(f"{path} has more than 8 bits a pixel, which would be cut off: save it as 8 bits")
                fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
                images[index] = np.asarray(fitted)
        except _DAMAGE as error:
            raise DataError(f"{path}: not a readable image ({error}); replace or remove it") from error
    return images
