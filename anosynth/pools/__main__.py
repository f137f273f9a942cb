"""Draw the control arms on rendered parts: per row a real shot, then synthetic pairs plain and with their masks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from anosynth.fingerprint import digest_pixels
from anosynth.params import CutPasteMethod, PerlinMethod
from anosynth.pools import pairs
from anosynth.pools.real import RealNormal, RealPair
from anosynth.samples import ShardJob
from anosynth.seeding import seed_for
from anosynth.sources.procedural.render import render

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = (
    ("washer", "scratch"),
    ("washer", "missing"),
    ("pill", "crack"),
    ("cast_metal", "dent"),
    ("wood", "stain"),
    ("fabric", "hole"),
    ("tile", "crack"),
)
METHODS: tuple[tuple[str, pairs.ControlSpec], ...] = (
    ("perlin", PerlinMethod.model_validate({"kind": "perlin"})),
    ("cutpaste", CutPasteMethod.model_validate({"kind": "cutpaste"})),
)
NUM_SHOTS = 4
LICENCE = "CC0-1.0"
OUTLINE = (255, 40, 40)
GAP_PX = 2


def sheet(*, columns: int, size_px: int, seed: int) -> NDArray[np.uint8]:
    """Two rows per category, one for each method: a shot with its mask, then `columns` samples, each twice."""
    rows = [
        _row(category, defect, method, spec, columns=columns, size_px=size_px, seed=seed)
        for category, defect in ROWS
        for method, spec in METHODS
    ]
    return np.concatenate(rows, axis=0)


def _row(
    category: str, defect: str, method: str, spec: pairs.ControlSpec, *, columns: int, size_px: int, seed: int
) -> NDArray[np.uint8]:
    parents, shots = [], []
    for number in range(NUM_SHOTS):
        sound = render(category, defect=None, seed=seed_for(seed, category, number), size_px=size_px)
        parents.append(RealNormal(sound.image, digest_pixels(sound.image), LICENCE))
        faulty = render(category, defect=defect, seed=seed_for(seed, category, defect, number), size_px=size_px)
        shots.append(RealPair(faulty.image, faulty.mask, digest_pixels(faulty.image), LICENCE))
    job = ShardJob(
        pool="pairs",
        category=category,
        defect=defect,
        method=method,
        shard=0,
        start=0,
        stop=columns,
        batch_size=1,
        seed=seed,
        stage="generate_pairs",
        fingerprint="",
        plan="",
        shape={},
    )
    made = pairs.samples(job, spec=spec, parents=parents, shots=shots, max_attempts=64, size_px=size_px)
    tiles = [_outlined(shots[0].image, shots[0].mask)]
    for sample in made:
        assert sample.mask is not None
        tiles += [sample.image, _outlined(sample.image, sample.mask)]
    framed = [np.pad(tile, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=255) for tile in tiles]
    return np.concatenate(framed, axis=1)


def _outlined(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    inside = mask > 0
    drawn = image.copy()
    drawn[ndimage.binary_dilation(inside) & ~inside] = OUTLINE
    return drawn


def main() -> None:
    """Write the picture to the path given."""
    parser = argparse.ArgumentParser(
        prog="python -m anosynth.pools",
        description=__doc__,
        epilog="examples:\n  python -m anosynth.pools docs/pictures/control_arms.jpg\n"
        "  python -m anosynth.pools arms.png --columns 6 --size-px 192 --seed 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, help="picture to write, .jpg or .png")
    parser.add_argument("--columns", type=int, default=4, help="samples per row (default: %(default)s)")
    parser.add_argument("--size-px", type=int, default=112, help="side of one picture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="root seed (default: %(default)s)")
    parsed = parser.parse_args()
    picture = Image.fromarray(sheet(columns=parsed.columns, size_px=parsed.size_px, seed=parsed.seed))
    picture.save(parsed.path, quality=80, optimize=True)
    print(f"{picture.width} x {picture.height} px written to {parsed.path}")


if __name__ == "__main__":
    main()
