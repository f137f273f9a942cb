"""The pool figures on rendered parts: what they must say of copies, of real images and of noise."""

from functools import cache
from typing import Any

import numpy as np

from anosynth.features.lite import LiteFeatures
from anosynth.params import EmbeddedFeatures, MeasureParams
from anosynth.screening.realism import Pictures, Realism
from anosynth.seeding import seed_for
from anosynth.sources.procedural import render

SIZE_PX = 64


@cache
def judge() -> Realism:
    spec = EmbeddedFeatures(kind="embedded", model="lite2", size_px=SIZE_PX, levels=(1, 2, 3, 4))
    features = LiteFeatures(spec.model, size_px=spec.size_px, levels=spec.levels)
    return Realism(features, MeasureParams(features=spec, neighbours=3, min_crop_px=16))


def rendered(part: str, count: int) -> Pictures:
    made = [render("washer", defect="scratch", seed=seed_for(1, part, i), size_px=SIZE_PX) for i in range(count)]
    return Pictures([one.image for one in made], [one.mask for one in made])


def compare(pool: Pictures, shots: Pictures) -> dict[str, Any]:
    return judge().compare(pool, reference=rendered("reference", 16), shots=shots.images, rng=np.random.default_rng(0))


def test_fresh_renders_are_nearer_to_real_than_noise_and_more_varied_than_copies() -> None:
    shots = rendered("shots", 2)
    fresh = compare(rendered("fresh", 16), shots)
    copies = compare(Pictures(list(shots.images) * 4, list(shots.masks) * 4), shots)
    noise = Pictures(
        [np.random.default_rng(i).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8) for i in range(16)],
        rendered("fresh", 16).masks,
    )
    noisy = compare(noise, shots)
    for name in ("kid_lite", "kid_lite_crops"):
        assert fresh[name]["value"] + 3 * fresh[name]["sd"] < noisy[name]["value"]
    assert copies["ic_lpips_lite"]["value"] == 0.0
    assert fresh["ic_lpips_lite"]["value"] > 0.1
    assert copies["manifolds"]["coverage"] < fresh["manifolds"]["coverage"]
    assert noisy["manifolds"]["precision"] == 0.0
    assert fresh["masks"]["regions"] >= 1.0


def test_an_empty_pool_and_one_without_masks_say_what_they_can() -> None:
    assert compare(Pictures([], []), rendered("shots", 2)) == {"images": 0}
    normal = Pictures(rendered("fresh", 4).images, [])
    found = judge().compare(normal, reference=normal, shots=[], rng=np.random.default_rng(0))
    assert set(found) == {"images", "reference_images", "kid_lite", "manifolds"}
    none_to_compare = judge().compare(normal, reference=Pictures([], []), shots=[], rng=np.random.default_rng(0))
    assert none_to_compare["kid_lite"] == {"value": None, "sd": None}
