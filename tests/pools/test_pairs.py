import hashlib

import numpy as np
import pytest

from anosynth.errors import DataError
from anosynth.params import CutPasteMethod, PerlinMethod
from anosynth.pools import pairs
from anosynth.pools.real import RealNormal, RealPair
from anosynth.samples import Sample
from tests.pools.small import SIZE_PX, disk, job, normal, spotted, surface

PERLIN = PerlinMethod(kind="perlin", max_octave=3)
CUTPASTE = CutPasteMethod(kind="cutpaste")
SELF = CutPasteMethod(kind="cutpaste", source="self")
METHODS = {"perlin": PERLIN, "cutpaste": CUTPASTE, "self": SELF}


@pytest.fixture(scope="module")
def parents() -> list[RealNormal]:
    return [normal(surface(seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def shots() -> list[RealPair]:
    return [spotted(surface(10)), spotted(surface(11), at=(40, 8))]


def make(method: str, parents: list[RealNormal], shots: list[RealPair], **changes: object) -> list[Sample]:
    size_px, max_attempts = changes.pop("size_px", SIZE_PX), changes.pop("max_attempts", 32)
    planned = job(changes.pop("n", 8), method=method, **changes)
    return list(
        pairs.samples(
            planned, spec=METHODS[method], parents=parents, shots=shots, max_attempts=max_attempts, size_px=size_px
        )
    )


def digest(samples: list[Sample]) -> str:
    state = hashlib.sha256()
    for sample in samples:
        assert sample.mask is not None
        state.update(sample.image.tobytes() + sample.mask.tobytes())
    return state.hexdigest()[:16]


@pytest.mark.parametrize(
    ("method", "golden"),
    [("perlin", "b4300b8b1f0072e9"), ("cutpaste", "67fa9a7cd5108c33"), ("self", "1d494d8277abb860")],
)
def test_golden_samples_change_only_with_the_algorithm_revision(
    method: str, golden: str, parents: list[RealNormal], shots: list[RealPair]
) -> None:
    flat, on_object = make(method, parents, shots, n=1), make(method, [normal(disk(0))], [spotted(disk(1))], n=1)
    assert pairs.algorithm(METHODS[method]) == 1
    assert digest(flat + on_object) == golden, "results changed: bump ALGORITHM of the method's module, then record"


@pytest.mark.parametrize("method", METHODS)
def test_samples_are_whole_and_say_where_they_come_from(
    method: str, parents: list[RealNormal], shots: list[RealPair]
) -> None:
    drawn = make(method, parents, shots)
    assert [sample.sample_id for sample in drawn] == [f"pairs/plate/spot/{method}/{i:06d}" for i in range(8)]
    by_sha = {parent.sha256: parent for parent in parents}
    known = {one.sha256 for one in (*parents, *shots)}
    for sample in drawn:
        assert sample.image.shape == (SIZE_PX, SIZE_PX, 3)
        parent = by_sha[str(sample.provenance.parent_id)]
        assert (sample.image != parent.image).any(axis=2)[sample.mask > 0].any()
        assert set(sample.provenance.shot_ids) <= known - {parent.sha256}
        assert sample.provenance.licence == "CC0-1.0"
        assert sample.mask_confidence == 1.0


def test_a_sample_depends_on_its_index_alone(parents: list[RealNormal], shots: list[RealPair]) -> None:
    for method in METHODS:
        whole = make(method, parents, shots)
        later = make(method, parents, shots, n=3, start=4)
        for one, other in zip(whole[4:7], later, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
            np.testing.assert_array_equal(one.mask, other.mask)


def test_arms_of_one_index_share_their_parent_and_use_all_parents_evenly(
    parents: list[RealNormal], shots: list[RealPair]
) -> None:
    chosen = {
        method: [sample.provenance.parent_id for sample in make(method, parents, shots, n=9)] for method in METHODS
    }
    assert chosen["perlin"] == chosen["cutpaste"] == chosen["self"]
    for start in (0, 3, 6):
        assert len(set(chosen["perlin"][start : start + 3])) == 3
    other = [sample.provenance.parent_id for sample in make("self", parents, shots, n=9, seed=4)]
    assert other != chosen["self"]


def test_every_shot_is_used_once_before_one_is_used_twice(parents: list[RealNormal], shots: list[RealPair]) -> None:
    drawn = make("cutpaste", parents, shots, n=6)
    assert [sample.attempt for sample in drawn] == [0] * 6
    used = [sample.provenance.shot_ids[0] for sample in drawn]
    for start in (0, 2, 4):
        assert set(used[start : start + 2]) == {shot.sha256 for shot in shots}


def test_images_of_any_shape_are_brought_to_the_size_asked(shots: list[RealPair]) -> None:
    wide = [normal(np.ascontiguousarray(surface(0, 90)[:60]))]
    for sample in make("cutpaste", wide, shots, n=2, size_px=48):
        assert sample.image.shape == (48, 48, 3)


def test_the_most_restrictive_licence_is_passed_on(parents: list[RealNormal]) -> None:
    share_alike = [spotted(surface(10), licence="CC-BY-SA-4.0")]
    credited = [normal(surface(0), licence="CC-BY-4.0")]
    assert {s.provenance.licence for s in make("cutpaste", credited, share_alike)} == {"CC-BY-SA-4.0"}
    assert {s.provenance.licence for s in make("self", credited, share_alike)} == {"CC-BY-4.0"}


def test_a_redraw_is_counted_and_bounded(parents: list[RealNormal], shots: list[RealPair]) -> None:
    coarse = PerlinMethod(kind="perlin", threshold=0.6, max_octave=2)
    planned = job(10, method="perlin")
    drawn = list(pairs.samples(planned, spec=coarse, parents=parents, shots=shots, max_attempts=200, size_px=SIZE_PX))
    assert max(sample.attempt for sample in drawn) > 0
    with pytest.raises(DataError, match=r"perlin/0000\d\d: no visible defect on parent [0-9a-f]{12} in 1 draws; look"):
        list(pairs.samples(planned, spec=coarse, parents=parents, shots=shots, max_attempts=1, size_px=SIZE_PX))


def test_missing_inputs_are_named_with_what_to_do(parents: list[RealNormal]) -> None:
    with pytest.raises(DataError, match=r"method 'cutpaste' cuts real defects and there are no anomalous shots; raise"):
        make("cutpaste", parents, [])
    with pytest.raises(DataError, match="no real normal images to put defects into"):
        make("perlin", [], [])
    assert len(make("self", parents, [], n=2)) == 2
    assert len(make("perlin", parents, [], n=2)) == 2


def test_a_shot_without_a_defect_in_its_mask_is_refused() -> None:
    image = surface(0)
    with pytest.raises(DataError, match="the mask is empty; an anomalous shot shows its defect"):
        RealPair(image, np.zeros(image.shape[:2], np.uint8), "ab" * 32, "CC0-1.0")
    with pytest.raises(DataError, match=r"the mask is \[8, 8\], the image \[64, 64\]"):
        RealPair(image, np.full((8, 8), 255, np.uint8), "ab" * 32, "CC0-1.0")
