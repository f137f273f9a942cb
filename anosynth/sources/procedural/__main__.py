"""Draw contact sheets of the demo categories, sound and defective, with the outlines of the masks."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from anosynth.seeding import seed_for
from anosynth.sources.procedural import CATEGORIES, DEFECTS, render_pair
from anosynth.sources.procedural.render import render

_OUTLINE = (255, 40, 40)


def sheet(category: str, *, columns: int, size_px: int, seed: int) -> NDArray[np.uint8]:
    """Rows of one category, [H, W, 3]: two rows sound, then per defect one row plain and one with outlines."""
    rows = [[_sound(category, columns * row + column, size_px, seed) for column in range(columns)] for row in range(2)]
    for defect in DEFECTS[category]:
        pairs = [
            render_pair(category, defect=defect, seed=seed_for(seed, category, defect, column), size_px=size_px)
            for column in range(columns)
        ]
        rows.append([pair.defective.image for pair in pairs])
        rows.append([outlined(pair.defective.image, pair.defective.mask) for pair in pairs])
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def overview(*, columns: int, size_px: int, seed: int) -> NDArray[np.uint8]:
    """One row per category: sound parts, then one part of each defect with its mask's outline, cut at `columns`."""
    rows = []
    for category in CATEGORIES:
        faults = [
            render(category, defect=defect, seed=seed_for(seed, category, defect, 0), size_px=size_px)
            for defect in DEFECTS[category]
        ]
        row = [_sound(category, index, size_px, seed) for index in range(columns - len(faults))]
        rows.append(np.concatenate(row + [outlined(fault.image, fault.mask) for fault in faults], axis=1))
    return np.concatenate(rows, axis=0)


def outlined(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with a red line just outside the mask."""
    line = ndimage.binary_dilation(mask > 0, iterations=2) & ~ndimage.binary_dilation(mask > 0)
    drawn = image.copy()
    drawn[line] = _OUTLINE
    return drawn


def _sound(category: str, index: int, size_px: int, seed: int) -> NDArray[np.uint8]:
    return render(category, defect=None, seed=seed_for(seed, category, "good", index), size_px=size_px).image


def main(arguments: list[str] | None = None) -> None:
    """Write the sheet asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m anosynth.sources.procedural",
        description=__doc__,
        epilog="examples:\n  python -m anosynth.sources.procedural --out docs/pictures/procedural.jpg\n"
        "  python -m anosynth.sources.procedural --category washer --out docs/pictures/procedural_washer.jpg",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write, .jpg or .png")
    parser.add_argument("--category", choices=CATEGORIES, help="one category in full; default: an overview of all")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    options = {"columns": chosen.columns, "size_px": chosen.size_px, "seed": chosen.seed}
    pixels = sheet(chosen.category, **options) if chosen.category else overview(**options)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(chosen.out, quality=72)
    print(f"{chosen.out}: {pixels.shape[1]} x {pixels.shape[0]} px")


if __name__ == "__main__":
    main()
