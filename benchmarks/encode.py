"""Bars of the image codec: our default against Pillow's default PNG, on the colour photographs that scikit-image ships.

time    CPU time to encode all photographs, reduced so that the shorter side is at most 512 px.
size    bytes of Pillow's PNG over ours; written as the ratio PNG / ours, so the ask 1 / 0.9 means at most 0.9 of the
        size.

Every encoded image is decoded and compared with its pixels before anything is timed.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import skimage.data
from PIL import Image

from anosynth.imaging import decode_image, encode_webp, resize_image
from benchmarks.measure import Bar, compare, finish, not_measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

PHOTOGRAPHS = (  # all colour photographs of the package
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
SIZE_PX = 512
TIME_ASK, SIZE_ASK = 4.0, 1.0 / 0.9


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m benchmarks.encode\n  python -m benchmarks.encode --rounds 9",
    )
    parser.add_argument("--rounds", type=int, default=5)
    return finish(measure(photographs(), rounds=parser.parse_args().rounds))


def photographs() -> dict[str, NDArray[np.uint8]]:
    """The photographs that lie in the installed package (others would be downloaded), uint8 [H, W, 3]."""
    folder = Path(skimage.data.__file__).parent
    found = {}
    for name in PHOTOGRAPHS:
        if (folder / name).exists():
            image = decode_image((folder / name).read_bytes(), name=name).image
            scale = min(1.0, SIZE_PX / min(image.shape[:2]))
            size_px = (round(image.shape[0] * scale), round(image.shape[1] * scale))
            found[name] = resize_image(image, size_px=size_px)
    return found


def measure(images: dict[str, NDArray[np.uint8]], *, rounds: int) -> list[Bar]:
    """Check that both codecs are lossless on the images, then measure the two bars."""
    if not images:
        return [not_measured(f"encode.{bar}", "no photograph in the package") for bar in ("time", "size")]
    png_bytes = webp_bytes = 0
    for name, image in images.items():
        png, webp = _encode_png(image), encode_webp(image)
        for data in (png, webp):
            if not np.array_equal(decode_image(data, name=name).image, image):
                raise AssertionError(f"{name} is not the same after decoding")
        png_bytes, webp_bytes = png_bytes + len(png), webp_bytes + len(webp)
        print(f"{name} {image.shape[1]} x {image.shape[0]}: {len(webp) / len(png):.3f} of the size", file=sys.stderr)
    time = compare(
        "encode.time",
        ask=TIME_ASK,
        baseline=lambda: [_encode_png(image) for image in images.values()],
        ours=lambda: [encode_webp(image) for image in images.values()],
        rounds=rounds,
    )
    note = f"PNG {png_bytes / 1e3:.0f} kB, ours {webp_bytes / 1e3:.0f} kB: {webp_bytes / png_bytes:.3f} of the size"
    return [time, Bar("encode.size", png_bytes / webp_bytes, SIZE_ASK, note=note)]


def _encode_png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
