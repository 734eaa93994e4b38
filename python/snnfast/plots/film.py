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
    require_pillow()
    from PIL import Image

    if len(frames) == 0:
        raise ValueError("frames must hold at least one picture, got none")
    if not 0 < frames_per_second <= 100:
        raise ValueError(f"frames_per_second must be above 0 and at most 100, got {frames_per_second}")
    if max_width < 1:
        raise ValueError(f"max_width must be at least 1, got {max_width}")
    for number, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != frames[0].shape:
            raise ValueError(
                f"frames must be uint8 arrays (height, width, 3) of one size, frame {number} is {frame.dtype} "
                f"{frame.shape}, the first one {frames[0].shape}"
            )
    height, width = frames[0].shape[:2]
    scale = min(1.0, max_width / width)
    size = (round(width * scale), max(1, round(height * scale)))
    pictures = [Image.fromarray(frame) for frame in frames]
    if scale < 1:
        pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    buffer = io.BytesIO()
    duration = max(10, round(100 / frames_per_second) * 10)
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    atomic_write(Path(path), buffer.getvalue())


def require_pillow() -> None:
    """Raise an ``ImportError`` that says what to install unless Pillow is there."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError('films need Pillow: pip install "snnfast[plot]"') from error
