from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from anosynth.errors import BackboneError, DataError
from anosynth.features.aligned import build_aligned, class_prototypes
from anosynth.features.aligned_lite import LiteAligned
from anosynth.features.projection import (
    Labelled,
    ProjectedAligned,
    cell_target,
    open_projection,
    projection_licence,
    train_projection,
    write_projection,
)
from anosynth.metrics.detection import image_metrics
from anosynth.params import ComputeParams, EmbeddedAligned
from anosynth.seeding import seed_for
from anosynth.sources.procedural import DEFECTS, render

SIZE_PX = 64
TRAINED_ON, HELD_OUT = ("cast_metal", "leather", "pill"), "tile"


@pytest.fixture(scope="module")
def features() -> LiteAligned:
    return LiteAligned("lite0", size_px=96, levels=(2, 3))


def pictures(features: LiteAligned, category: str, *, count: int) -> list[Labelled]:
    prototypes, found = class_prototypes(features, category), []
    for index in range(2 * count):
        kinds = [kind for kind in DEFECTS[category] if kind in ("stain", "hole", "missing")]
        defect = kinds[index // 2 % len(kinds)] if index % 2 else None
        made = render(category, defect=defect, seed=seed_for(8, category, index), size_px=SIZE_PX)
        levels = tuple(level[0] for level in features.patch_levels([made.image]))
        target = cell_target(made.mask, grid=levels[0].shape[:2])
        assert target.any() == (defect is not None)
        found.append(Labelled(levels, target, prototypes))
    return found


def text_auroc(features: LiteAligned | ProjectedAligned, test: list[Labelled]) -> float:
    """Image AUROC of S_text = mean over levels of the greatest chance of "abnormal" on the grid."""
    scores = []
    for one in test:
        chances = []
        for level in features.text_levels:
            cosines = features.project(level, one.levels[level]) @ one.prototypes.T
            chances.append(1.0 / (1.0 + np.exp(features.temperature * (cosines[..., 0] - cosines[..., 1]))))
        scores.append(np.mean([chance.max() for chance in chances]))
    return image_metrics(np.array(scores), np.array([one.target.any() for one in test])).auroc


def test_trained_on_other_categories_it_improves_the_text_score_of_a_held_out_one(features: LiteAligned) -> None:
    train = [one for category in TRAINED_ON for one in pictures(features, category, count=8)]
    test = pictures(features, HELD_OUT, count=10)
    weights = train_projection(train, temperature=features.temperature, steps=150, batch_size=8, lr=1e-3, seed=0)
    trained = ProjectedAligned(features, weights, digest="x")
    before, after = text_auroc(features, test), text_auroc(trained, test)
    assert after >= before + 0.1
    assert after >= 0.7


def test_training_repeats_itself_and_depends_on_the_seed() -> None:
    rng = np.random.default_rng(3)
    texts = rng.standard_normal((2, 4)).astype(np.float32)
    some = [
        Labelled(
            (rng.standard_normal((3, 3, 5)).astype(np.float32),), (rng.random((3, 3)) < 0.3).astype(np.float32), texts
        )
        for _ in range(6)
    ]
    fits = [
        train_projection(some, temperature=10.0, steps=5, batch_size=2, lr=1e-2, seed=seed)[0] for seed in (1, 1, 2)
    ]
    assert fits[0].shape == (6, 4)
    np.testing.assert_array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])
    sound = [Labelled(one.levels, np.zeros((3, 3), np.float32), texts) for one in some]
    with pytest.raises(DataError, match="needs pictures with defects"):
        train_projection(sound, temperature=10.0, steps=1, batch_size=2, lr=1e-2, seed=0)


def test_a_cell_is_marked_if_the_mask_touches_it() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[0, 0] = mask[4, 9] = mask[9, 19] = 255
    np.testing.assert_array_equal(cell_target(mask, grid=(2, 4)), [[1, 1, 0, 0], [0, 0, 0, 1]])


def test_a_file_gives_the_maps_back_and_belongs_to_its_encoders(features: LiteAligned, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    weights = [rng.standard_normal((width + 1, 384)).astype(np.float32) for width in (40, 112, 1280)]
    path, licence = tmp_path / "models" / "projection.safetensors", "CC-BY-4.0"
    write_projection(path, weights, base_identity=features.identity, licence=licence)
    for again in range(8):  # the file's digest is part of every fit's fingerprint
        other_path = tmp_path / f"{again}.safetensors"
        write_projection(other_path, weights, base_identity=features.identity, licence=licence)
        assert other_path.read_bytes() == path.read_bytes()
    assert projection_licence(path) == "CC-BY-4.0"
    spec = EmbeddedAligned(kind="embedded", size_px=96, levels=(2, 3), projection=str(path))
    compute = ComputeParams(threads=1, dtype="float32", device="cpu")
    built = build_aligned(spec, compute=compute)
    assert built.text_levels == (0, 1, 2)
    assert built.local_levels == (0, 1)
    assert built.identity != features.identity
    rows = rng.standard_normal((7, 112)).astype(np.float32)
    expected = rows.astype(np.float64) @ weights[1][:-1] + weights[1][-1]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(built.project(1, rows), expected, atol=1e-5)
    with pytest.raises(ValueError, match="level 3 does not exist"):
        built.project(3, rows)
    other = LiteAligned("lite0", size_px=64, levels=(2, 3))
    with pytest.raises(BackboneError, match="trained on other encoders"):
        open_projection(path, base=other)
    with pytest.raises(BackboneError, match=r"does not exist; run: python -m tasks\.train_projection"):
        open_projection(tmp_path / "none.safetensors", base=features)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BackboneError, match="is no projection"):
        open_projection(path, base=features)
    save_file({"level_0": weights[0]}, path)
    with pytest.raises(BackboneError, match="is no projection of this version"):
        open_projection(path, base=features)
