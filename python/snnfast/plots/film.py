# SPDX-License-Identifier: Apache-2.0
"""Films of episodes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from snnfast.checkpoint import atomic_write
from snnfast.plots.style import PathLike

#: Pictures that are held until they are encoded together. Pillow holds all pictures of a film until its end.
_TOGETHER = 128
#: The longest that a GIF can show a picture, in hundredths of a second.
_LONGEST = 2**16 - 1
_TRAILER = b";"


class GifFilm:
    """A film that grows picture by picture, and is held encoded: a long one needs little memory.

    Args:
        frames_per_second: speed; GIF counts time in hundredths of a second, up to eleven minutes a picture.
        max_width: wider pictures are made smaller, in pixels.

    Raises:
        ValueError: if a number is out of range.
        ImportError: if Pillow is not installed.
    """

    def __init__(self, *, frames_per_second: float = 25.0, max_width: int = 480) -> None:
        require_pillow()
        if not 0 < frames_per_second <= 100:
            raise ValueError(f"frames_per_second must be above 0 and at most 100, got {frames_per_second}")
        if 100 / frames_per_second > _LONGEST:
            raise ValueError(
                f"frames_per_second must be at least {100 / _LONGEST:.6f} in a GIF, got {frames_per_second}"
            )
        if max_width < 1:
            raise ValueError(f"max_width must be at least 1, got {max_width}")
        self._duration = max(10, round(100 / frames_per_second) * 10)
        self._max_width = max_width
        self._shape: tuple[int, ...] | None = None
        self._count = 0
        self._waiting: list[npt.NDArray[np.uint8]] = []
        self._encoded = io.BytesIO()

    def add(self, frame: npt.NDArray[np.uint8]) -> None:
        """Add a picture, (height, width, 3), uint8; all of a film have one size.

        Raises:
            ValueError: if its shape or dtype is another.
        """
        from PIL import Image

        self._shape = self._shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != self._shape:
            raise ValueError(
                f"frames must be uint8 arrays (height, width, 3) of one size, frame {self._count} is {frame.dtype} "
                f"{frame.shape}, the first one {self._shape}"
            )
        height, width = frame.shape[:2]
        scale = min(1.0, self._max_width / width)
        if scale < 1:
            size = (round(width * scale), max(1, round(height * scale)))
            frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
        else:
            frame = frame.copy()  # an environment may draw into the same array again
        # Of equal pictures in a row Pillow makes one that is shown as long as all of them.
        if len(self._waiting) >= min(_TOGETHER, _LONGEST // (self._duration // 10)):
            self._encode()
        self._waiting.append(frame)
        self._count += 1

    def write(self, path: PathLike) -> None:
        """Write the film, which repeats for ever.

        Raises:
            ValueError: if there are no pictures.
            OSError: if the file cannot be written.
        """
        if self._count == 0:
            raise ValueError("frames must hold at least one picture, got none")
        self._encode()
        atomic_write(Path(path), self._encoded.getvalue() + _TRAILER)

    def _encode(self) -> None:
        """Encode the pictures that wait, and put them behind those before."""
        from PIL import Image

        if not self._waiting:
            return
        pictures = [Image.fromarray(frame) for frame in self._waiting]
        self._waiting = []
        part = io.BytesIO()
        pictures[0].save(part, "GIF", save_all=True, append_images=pictures[1:], duration=self._duration, loop=0)
        film = part.getvalue()
        self._encoded.write(film.removesuffix(_TRAILER) if self._encoded.tell() == 0 else _pictures_of(film))


def _pictures_of(film: bytes) -> bytes:
    """The pictures of a GIF without its head and its end, to go on another one of the same size with.

    What they take from the head is the table of colours: each that has none of its own is given that.

    Source: CompuServe 1990, Graphics Interchange Format, version 89a.
    """
    flags, at = film[10], 13
    table = b""
    if flags & 0x80:
        table = film[at : at + 3 * 2 ** (1 + (flags & 7))]
        at += len(table)
    parts = []
    while (kind := film[at : at + 1]) != _TRAILER:
        if kind == b"!":  # an extension; of those, only how long a picture is shown belongs to it
            end = _after_blocks(film, at + 2)
            if film[at + 1] == 0xF9:
                parts.append(film[at:end])
        else:  # a picture: its place and size, its table of colours, the width of its codes, and its data
            head, own = film[at : at + 9], film[at + 9]
            colours = film[at + 10 : at + 10 + 3 * 2 ** (1 + (own & 7))] if own & 0x80 else b""
            data = at + 10 + len(colours)
            end = _after_blocks(film, data + 1)
            if not colours:
                own, colours = own | 0x80 | (flags & 7), table
            parts.append(head + bytes([own]) + colours + film[data:end])
        at = end
    return b"".join(parts)


def _after_blocks(film: bytes, at: int) -> int:
    """Where a row of blocks ends, each led by its length, the last one empty."""
    while film[at]:
        at += 1 + film[at]
    return at + 1


def write_gif(
    frames: Sequence[npt.NDArray[np.uint8]], path: PathLike, *, frames_per_second: float = 25.0, max_width: int = 480
) -> None:
    """Write pictures as a film that repeats for ever.

    Args:
        frames: pictures of one size, each (height, width, 3), uint8.
        path: file to write.
        frames_per_second: speed; GIF counts time in hundredths of a second.
        max_width: wider pictures are made smaller, in pixels.

    Raises:
        ValueError: if there are no frames, one has another shape or dtype, or a number is out of range.
        ImportError: if Pillow is not installed.
        OSError: if the file cannot be written.
    """
    film = GifFilm(frames_per_second=frames_per_second, max_width=max_width)
    for frame in frames:
        film.add(frame)
    film.write(path)


def require_pillow() -> None:
    """Raise an ``ImportError`` that says what to install unless Pillow is there."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError('films need Pillow: pip install "snnfast[plot]"') from error
