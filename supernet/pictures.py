"""Image files: read one by one, and a set of them that is too large for memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import FaultError, InputError

GREY = ("1", "L", "LA")  # modes of Pillow's
ORIENTATION = 0x0112  # the tag of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def read_image(path: Path, size_px: int) -> np.ndarray:
    """A picture as uint8 (S, S, 1) if it is grey, else (S, S, 3): upright, scaled, its middle square."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"its pixels have the mode {image.mode}, more than 8 bits")
            grey = image.mode in GREY
            fitted = ImageOps.fit(_upright(image).convert("L" if grey else "RGB"), (size_px, size_px))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    pixels = np.asarray(fitted, dtype=np.uint8)
    return pixels[:, :, None] if grey else pixels


def _upright(image: Image.Image) -> Image.Image:
    """A picture as the camera was held, where it says so in a way that can be read."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # of odd tags, many kinds: the picture itself may be whole
        return image
    return image if turn is None else image.transpose(turn)


def is_grey(path: Path) -> bool:
    """Whether a picture is grey, by its header alone."""
    try:
        with Image.open(path) as image:
            return image.mode in GREY
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a readable image ({error}): replace or remove it")


@dataclass(frozen=True)
class Pictures:
    """Image files that are read when they are needed: what is used of a tensor uint8 (N, C, S, S)."""

    files: tuple[Path, ...]
    size_px: int
    channels: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.files), self.channels, self.size_px, self.size_px))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: slice | torch.Tensor) -> torch.Tensor:
        """The images that a slice or (n,) indices name, read: uint8 (n, C, S, S)."""
        chosen = self.files[index] if isinstance(index, slice) else [self.files[i] for i in index.tolist()]
        return torch.from_numpy(np.stack([self._read(file) for file in chosen])).permute(0, 3, 1, 2).contiguous()

    def only(self, index: torch.Tensor) -> Pictures:
        """The files that `index` (n,) names."""
        return Pictures(tuple(self.files[i] for i in index.tolist()), self.size_px, self.channels)

    def split(self, count: int) -> Iterator[torch.Tensor]:
        """All images, read `count` at a time."""
        return (self[start : start + count] for start in range(0, len(self), count))

    def signature(self) -> bytes:
        """What tells these files from others without reading them: names, sizes, and the size they are read in."""
        lines = [f"{'/'.join(file.parts[-2:])} {file.stat().st_size}" for file in self.files]
        return "\n".join([f"{self.size_px} {self.channels}", *lines]).encode()

    def _read(self, file: Path) -> np.ndarray:
        try:
            pixels = read_image(file, self.size_px)
        except InputError as error:  # met by one of several processes, in the middle of the work
            raise FaultError(
                f"{error}, and train anew; if it was whole before, put it back as it was, and go on with --resume"
            ) from error
        return np.repeat(pixels, self.channels // pixels.shape[2], axis=2)
