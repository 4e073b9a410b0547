"""Pictures as a film: GIF by Pillow, MP4 by the ffmpeg that the extra `raymix[video]` brings."""

from __future__ import annotations

import importlib.util
import io
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raymix.files import AnyPath, path_of
from raymix.types import UsageError

MOST_PER_SECOND = 30
"""Pictures; an environment that makes more steps shows every second, third, ... of them, at its own speed."""
MOST_IN_GIF = 3_000
"""They are all in memory until the file is written."""
_WIDEST_GIF = 320
"""Pixels: a GIF of natural pictures is ten times as large as an MP4."""


def check_film(target: str) -> AnyPath:
    """The path of a film that could be written there; its folder is made.

    Raises:
        UsageError: another kind than .gif and .mp4, no ffmpeg for the latter, or a folder that cannot be written.
    """
    path = path_of(target)
    if path.suffix not in (".gif", ".mp4"):
        raise UsageError(f"a film's name ends in .gif or .mp4, not {path.name!r}")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UsageError(
            f"{path.name} needs ffmpeg, which `pip install 'raymix[video]'` brings; install it, or write a .gif"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(path, Path):
            with tempfile.TemporaryFile(dir=path.parent):
                pass  # told now, and not after all has been played
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror or error}); choose another --video") from error
    return path


class Film:
    """Pictures (H, W, 3) uint8 of one size, `per_second` of them a second; MP4s are compressed as they come."""

    def __init__(self, kind: str, per_second: float) -> None:
        """`kind` is .gif or .mp4."""
        self.pictures = 0
        self._per_second, self._images = per_second, list[Image.Image]()
        self._folder = tempfile.TemporaryDirectory() if kind == ".mp4" else None
        self._ffmpeg: Any = None

    def add(self, picture: np.ndarray) -> None:
        """The next picture. `UsageError` beyond what a GIF takes."""
        self.pictures += 1
        if self._folder is None:
            self._add_to_gif(picture)
            return
        # H.264 takes even sizes only.
        height, width = picture.shape[:2]
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._ffmpeg is None:
            self._ffmpeg = self._encoder((picture.shape[1], picture.shape[0]))
            self._ffmpeg.send(None)
        self._ffmpeg.send(np.ascontiguousarray(picture))

    def finish(self) -> bytes:
        """The file's contents."""
        if self._folder is None:
            image = io.BytesIO()
            # In units of 10 ms, as the format has it.
            duration = max(2, round(100 / self._per_second)) * 10
            more: dict[str, Any] = {"append_images": self._images[1:], "save_all": True, "loop": 0}
            self._images[0].save(image, "GIF", duration=duration, **more)
            return image.getvalue()
        self._ffmpeg.close()
        contents = self._file.read_bytes()
        self._folder.cleanup()
        return contents

    def _add_to_gif(self, picture: np.ndarray) -> None:
        if self.pictures > MOST_IN_GIF:
            raise UsageError(
                f"a GIF of more than {MOST_IN_GIF:,} pictures is too large; write a .mp4, or fewer episodes"
            )
        image = Image.fromarray(picture)
        if image.width > _WIDEST_GIF:
            image = image.resize((_WIDEST_GIF, math.ceil(image.height * _WIDEST_GIF / image.width)))
        self._images.append(image.quantize(256))

    def _encoder(self, size: tuple[int, int]) -> Any:
        import imageio_ffmpeg

        return imageio_ffmpeg.write_frames(
            str(self._file),
            size,
            fps=self._per_second,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-movflags", "+faststart"],
        )

    @property
    def _file(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "film.mp4"
