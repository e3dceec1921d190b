"""ImageNet's official files, read in place: nothing is unpacked, and an image is some bytes of a tar file."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from ..core.errors import TaskError
from .images import Labelled, Stored

TRAIN, HELD_OUT, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
FILES = (TRAIN, HELD_OUT, KIT)
_META = "ILSVRC2012_devkit_t12/data/meta.mat"
_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def read(folder: Path) -> tuple[Labelled, Labelled]:
    """What to train and to validate on; the heads of 1.3 million files are read for it, about a minute's work.

    Raises:
        TaskError: for a file that is missing, cut short, or not what it should be.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise TaskError(f"'{folder / name}' is missing; ImageNet's official files are {', '.join(FILES)}")
    try:
        synsets, truth = _kit(folder / KIT)
        train = _train(folder / TRAIN)
        images = _members(folder / HELD_OUT)
    except (tarfile.TarError, EOFError, OSError, KeyError) as error:
        raise TaskError(f"ImageNet's files in '{folder}' are damaged: {error}; get them again") from None
    if len(images) != len(truth):
        raise TaskError(
            f"'{HELD_OUT}' has {len(images):,} images, and '{KIT}' says the classes of {len(truth):,}; get them again"
        )
    numbers = {name: label for label, name in enumerate(train.classes)}
    if strange := sorted({synsets.get(number, f"number {number}") for number in truth} - numbers.keys()):
        raise TaskError(f"'{HELD_OUT}' has class {strange[0]}, which '{TRAIN}' has not; get them again")
    return train, Labelled(tuple(images), tuple(numbers[synsets[number]] for number in truth), train.classes)


def _kit(path: Path) -> tuple[dict[int, str], list[int]]:
    """The classes' names by their official numbers, and the numbers of the images to validate on."""
    from scipy.io import loadmat

    with tarfile.open(path) as kit:
        meta, truth = kit.extractfile(_META), kit.extractfile(_TRUTH)
        assert meta is not None
        assert truth is not None
        synsets = loadmat(io.BytesIO(meta.read()), squeeze_me=True)["synsets"]
        numbers = [int(line) for line in truth.read().split()]
    return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}, numbers


def _train(path: Path) -> Labelled:
    """The images of a tar file that holds one for each class."""
    images: list[Stored] = []
    labels: list[int] = []
    with tarfile.open(path) as outer:
        members = sorted((member for member in outer if member.name.endswith(".tar")), key=lambda member: member.name)
        for label, member in enumerate(members):
            found = _members(path, outer, member)
            if not found:
                raise TaskError(f"'{member.name}' in '{path}' has no images; get it again")
            images += found
            labels += [label] * len(found)
    classes = tuple(Path(member.name).stem for member in members)
    return Labelled(tuple(images), tuple(labels), classes)


def _members(path: Path, outer: tarfile.TarFile | None = None, member: tarfile.TarInfo | None = None) -> list[Stored]:
    """The files of a tar file, or of one in it, by their names."""
    inside = None if outer is None or member is None else outer.extractfile(member)
    start = 0 if member is None else member.offset_data
    with tarfile.open(path if inside is None else None, "r:", inside) as tar:
        files = sorted((file for file in tar if file.isfile()), key=lambda file: file.name)
        return [Stored(str(path), start + file.offset_data, file.size) for file in files]
