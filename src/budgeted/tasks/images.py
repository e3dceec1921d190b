"""Image files: found in class folders or read in place from tar files, decoded by Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..train.stream import Unreadable
from .sources import by_class

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp"})


class Stored(NamedTuple):
    """Where an image is: a file, or bytes of one that holds many."""

    path: str
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return self.path if self.size < 0 else f"{self.path} (byte {self.offset:,})"

    def bytes(self) -> bytes:
        """What is stored.

        Raises:
            Unreadable: where it is not there.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise Unreadable(f"'{self}': {error.strerror or error}") from None


@contextmanager
def opened(stored: Stored) -> Iterator[Image.Image]:
    """An image whose pixels are decoded when they are asked for.

    Raises:
        Unreadable: where it is truncated, or no image.
    """
    content = stored.bytes()
    try:
        yield Image.open(io.BytesIO(content))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(f"'{stored}': {error}") from None


def decode(stored: Stored) -> Image.Image:
    """The image in colour.

    Raises:
        Unreadable: where it is truncated, or no image.
    """
    with opened(stored) as image:
        return image.convert("RGB")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images and the numbers of their classes.

    Args:
        images: where they are.
        labels: of each, from 0.
        classes: their names.
    """

    images: tuple[Stored, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def class_folders(folder: Path) -> Labelled:
    """Images in a folder for each class, as torchvision's ImageFolder reads them.

    Raises:
        TaskError: for no class folder, or one without images.
    """
    found = by_class(folder, _images, "images", EXTENSIONS)
    images = tuple(Stored(path) for paths in found.values() for path in paths)
    labels = tuple(label for label, paths in enumerate(found.values()) for _ in paths)
    return Labelled(images, labels, tuple(found))


def _images(folder: Path) -> Iterator[str]:
    return (str(path) for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
