r"""Draw what One-to-Normal makes of a few queries: query, twin, the branches' maps, the fused map.

    python examples/few_shot_pictures.py --out docs/pictures/one_to_normal.jpg --store /tmp/few-shot/store \
        --part final --units tile/tile washer/washer bsdata/without-3 --bsdata FOLDER --backbone embedded

Of every unit: the anomalous query whose score is highest, the one whose score is lowest, and the normal one whose score
is highest, so the best case and both kinds of worst. References and noise are those of seed 0 in examples/few_shot.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from anosynth.detectors.build import DetectorParts, build_detector
from anosynth.detectors.one_to_normal import Explanation, OneToNormal
from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import AnosynthError, ParamsError
from anosynth.imaging import resize_image, resize_mask
from anosynth.looking.detect import explained
from anosynth.looking.sheet import outlined
from anosynth.shards.store import ShardStore

sys.path.insert(0, str(Path(__file__).parent))
from few_shot import CONTENDERS, Cell, Encoders, add_settings, read_settings
from few_shot_generator import Generator, Settings
from few_shot_sets import Picture, Unit, available_sets, chosen_sets

if TYPE_CHECKING:
    from numpy.typing import NDArray

DETECTOR = "one_to_normal_best"
QUERY_PX = 160
QUALITY = 82


def chosen(found: Sequence[tuple[Picture, Explanation]]) -> list[tuple[Picture, Explanation]]:
    """The anomalous query of the highest score, the one of the lowest, and the normal one of the highest."""
    ordered = sorted(found, key=lambda one: one[1].prediction.score)
    bad = [one for one in ordered if one[0].anomalous]
    return [bad[-1], bad[0], next(one for one in reversed(ordered) if not one[0].anomalous)]


def rows(unit: Unit, settings: Settings, *, k: int, store: ShardStore) -> list[NDArray[np.uint8]]:
    """Fit the preset `best` on k references of seed 0 and draw three queries, uint8 RGB each."""
    references, encoders = unit.references(k, 0), Encoders(settings)
    generator = Generator(settings, unit, references, 0, store=store)
    parts = DetectorParts(encoders.patches, encoders.aligned, generator.source, unit.object_name, opening={})
    detector = build_detector(
        CONTENDERS[DETECTOR].spec,
        parts=parts,
        compute=settings.compute,
        draw_seed=Cell(unit, k, 0, DETECTOR, "without").draw_seed,
        name=DETECTOR,
    )
    assert isinstance(detector, OneToNormal)
    detector.fit([LabelledImage(one.name, one.image, None, synthetic=False) for one in references], [])
    answers = detector.explain((one.name, one.image) for one in unit.queries)
    drawn = []
    for picture, answer in chosen(list(zip(unit.queries, answers, strict=True))):
        size_px = (QUERY_PX, QUERY_PX)
        mask = None if picture.mask is None else resize_mask(picture.mask, size_px=size_px)
        drawn.append(explained(outlined(resize_image(picture.image, size_px=size_px), mask, size_px=QUERY_PX), answer))
    return drawn


def page(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Stack pictures of one width, uint8 RGB."""
    return np.concatenate(list(pictures))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, draw, write one JPEG; wrong input ends with one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JPEG")
    parser.add_argument("--store", type=Path, required=True, help="of adapters and twins: OUT/store of few_shot")
    parser.add_argument("--units", nargs="+", required=True, help="SET/UNIT each")
    parser.add_argument("--references", type=int, default=4, help="k")
    add_settings(parser, bsdata=os.environ.get("ANOSYNTH_BSDATA", ""))
    given = parser.parse_args(arguments)
    try:
        torch.set_num_threads(given.threads)
        settings, store = read_settings(given), ShardStore(given.store)
        if settings.backbone is None:
            raise ParamsError("twins need --backbone embedded, or a folder")
        there = available_sets(
            part=given.part,
            bsdata_folder=given.bsdata,
            queries=given.queries,
            size_px=given.size_px,
            digits=given.digits,
        )
        units = cache(lambda name: {unit.name: unit for unit in chosen_sets([name], there)[0].units()})
        drawn = []
        for wanted in given.units:
            set_name, _, name = wanted.partition("/")
            if name not in units(set_name):
                raise ParamsError(f"--units {wanted}: not there; there: {', '.join(units(set_name))}")
            drawn += rows(units(set_name)[name], settings, k=given.references, store=store)
    except AnosynthError as error:
        print(f"few_shot_pictures: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    Image.fromarray(page(drawn)).save(given.out, quality=QUALITY)
    print(f"few_shot_pictures: {len(drawn)} queries, in {given.out}")


if __name__ == "__main__":
    main()
