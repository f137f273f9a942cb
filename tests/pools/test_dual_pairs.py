"""Pairs by two branches, with the toy backbone: it draws noise, so only mechanics are looked at."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from anosynth.diffusion.background import background_image
from anosynth.diffusion.dual_adapters import open_dual
from anosynth.diffusion.dual_sample import two_branches
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.errors import BackboneError, DataError
from anosynth.features.foreground import segment_object
from anosynth.params import ComputeParams, ToyBackbone
from anosynth.pools import dual_pairs
from anosynth.pools.draft import turn
from anosynth.pools.dual_fit import fit
from anosynth.pools.dual_pairs import PairsGenerator, _planted, prepare, returned
from anosynth.pools.dual_terms import drawing_values, terms_from_json
from anosynth.pools.masks import MaskRule
from anosynth.samples import Sample
from tests.blobs import Blobs
from tests.pools.dual_small import method, shots, subject
from tests.pools.small import SIZE_PX, disk, job, normal

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
PARENTS = [normal(disk(seed)) for seed in (11, 12)]


@pytest.fixture(scope="module")
def generator() -> Iterator[PairsGenerator]:
    backbone: LatentDiffusion = open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)
    saved = fit(
        backbone,
        {"spot": shots()},
        subject(backbone.identity),
        method(lr=1e-2),
        compute=COMPUTE,
        store=Blobs(),
    )
    terms = terms_from_json(saved.terms)
    # The toy's parts are noise around grey: with these thresholds some of it is a mask and some is not.
    terms = replace(terms, rules={"spot": MaskRule((127, 127, 127), high=40.0, low=25.0, min_area=0.0, fit=0.5)})
    with two_branches(backbone, open_dual(backbone.unet, saved, backbone=backbone.identity)):
        yield prepare(backbone, PARENTS, shots(), adapter=saved.digest, terms=terms, defect="spot")


def drawn(generator: PairsGenerator, count: int, *, start: int = 0, batch: int = 4, **changes: object) -> list[Sample]:
    made = dual_pairs.samples(
        replace(job(count, method="dual", start=start), batch_size=batch), generator, method(**changes), max_attempts=8
    )
    return list(made)


def test_a_sample_carries_its_part_its_parent_its_prompt_and_its_adapter(generator: PairsGenerator) -> None:
    (sample,) = drawn(generator, 1)
    assert sample.part is not None
    assert sample.part.shape == sample.image.shape == (SIZE_PX, SIZE_PX, 3)
    assert sample.mask is not None
    assert 0 < np.count_nonzero(sample.mask) < sample.mask.size
    assert sample.provenance.parent_id in {parent.sha256 for parent in PARENTS}
    assert sample.provenance.prompt == "a photo of round plate with dark spot"
    assert sample.provenance.adapter == generator.adapter
    assert sample.provenance.backbone == generator.backbone.identity
    assert sample.provenance.shot_ids == tuple(pair.sha256 for pair in shots())
    assert 0.0 <= sample.mask_confidence <= 1.0


def test_a_sample_depends_on_its_index_alone(generator: PairsGenerator) -> None:
    together = drawn(generator, 4)
    alone = [drawn(generator, 1, start=index, batch=1)[0] for index in range(4)]
    one_by_one = drawn(generator, 4, batch=1)
    for first, second, third in zip(together, alone, one_by_one, strict=True):
        assert first.spec == second.spec == third.spec
        assert first.attempt == second.attempt
        for other in (second, third):
            assert np.abs(first.image.astype(int) - other.image.astype(int)).max() <= 1
            assert np.abs(np.asarray(first.part).astype(int) - np.asarray(other.part).astype(int)).max() <= 1
    assert len({sample.image.tobytes() for sample in together}) == 4


def test_the_parents_pixels_return_outside_of_the_seam(generator: PairsGenerator) -> None:
    images = {parent.sha256: parent.image for parent in generator.normals}
    checked = 0
    for sample in drawn(generator, 3, blend_px=2.0):
        parent = images[str(sample.provenance.parent_id)]
        inside = np.asarray(sample.mask) > 0
        far = ~np.any([np.roll(inside, (r, c), (0, 1)) for r in range(-2, 3) for c in range(-2, 3)], axis=0)
        far[:2], far[-2:], far[:, :2], far[:, -2:] = False, False, False, False
        checked += int(far.sum())
        np.testing.assert_array_equal(sample.image[far], parent[far])
        assert np.abs(sample.image[inside].astype(int) - parent[inside].astype(int)).mean() > 4
    assert checked > 0


def test_a_hard_edge_a_soft_edge_and_what_lies_far_away() -> None:
    parent, drawn_image = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3))
    mask = np.zeros((16, 16), np.uint8)
    mask[6:9, 6:9] = 255
    drawn_image[mask > 0] = 200.0
    hard = returned(parent, drawn_image, mask, seam_px=0.0)
    np.testing.assert_array_equal(hard[:, :, 0] == 200, mask > 0)
    # A rim that is drawn beyond the ring of light's reach fades out: half way through the cosine it is half of it.
    drawn_image = np.where(mask[:, :, None] > 0, 200.0, 0.0) + np.zeros_like(parent)
    drawn_image[7, 10] = 100.0
    row = returned(parent, drawn_image, mask, seam_px=4.0)[7, 8:, 0].astype(int)
    assert row[0] == 200
    assert row[2] == 50
    assert (row[4:] == 0).all()


def test_the_drawn_pixels_take_the_light_of_the_place() -> None:
    rng = np.random.default_rng(0)
    parent = rng.integers(60, 120, (64, 64, 3)).astype(np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:30, 24:36] = 255
    tint = np.array([30.0, -12.0, 5.0])
    everywhere = returned(parent, parent + tint, mask, seam_px=3.0)
    np.testing.assert_array_equal(everywhere, parent)
    drawn_image = parent + tint + rng.normal(0.0, 4.0, parent.shape)
    ring = []
    for row in range(64):
        for column in range(64):
            away = np.hypot(max(20 - row, 0, row - 29), max(24 - column, 0, column - 35))
            if 1.0 < away <= 4.0:
                ring.append(parent[row, column] - drawn_image[row, column])
    expected = np.rint(np.clip(drawn_image[25, 30] + np.mean(ring, axis=0), 0, 255))
    np.testing.assert_array_equal(returned(parent, drawn_image, mask, seam_px=3.0)[25, 30], expected)


def test_detail_that_the_autoencoder_loses_comes_back(generator: PairsGenerator) -> None:
    without, half, whole = (drawn(generator, 3, detail=share, blend_px=None) for share in (0.0, 0.5, 1.0))
    for none, some, all_of_it in zip(without, half, whole, strict=True):
        start = turn(len(PARENTS), job=job(3, method="dual"), index=none.spec.index, what="parent")
        planted, _ = _planted(job(3, method="dual"), none.spec, generator, method(), start=start, attempt=none.attempt)
        lost = planted.astype(float) - generator.backbone.decode(generator.backbone.encode([planted]))[0]
        for share, sample in ((0.5, some), (1.0, all_of_it)):
            expected = np.clip(none.image + share * lost, 0, 255)
            assert np.abs(sample.image - expected).max() <= 1.5
    assert any(not np.array_equal(a.image, b.image) for a, b in zip(without, whole, strict=True))


def test_from_noise_there_is_no_parent(generator: PairsGenerator) -> None:
    (sample,) = drawn(generator, 1, strength=1.0, blend_px=None)
    assert sample.provenance.parent_id is None
    assert sample.provenance.licence == "CC0-1.0"


def test_the_paper_profile_draws_one_pair_at_a_time(generator: PairsGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, str, int, float]] = []
    draw = dual_pairs.draw_pairs

    def watched(backbone, prompts, *, settings, generators, **others):  # type: ignore[no-untyped-def]
        sizes.append((len(generators), settings.solver, settings.steps, settings.guidance))
        quick = replace(settings, steps=2)
        return draw(backbone, prompts, settings=quick, generators=generators, **others)

    monkeypatch.setattr(dual_pairs, "draw_pairs", watched)
    drawn(generator, 2, profile="paper", redraws=0)
    assert {one[0] for one in sizes} == {1}
    assert {one[1:] for one in sizes} == {("plms", 100, 2.5)}
    sizes.clear()
    drawn(generator, 2, profile="default", redraws=0)
    assert sizes[0] == (2, "dpm_solver", 25, 2.0)


def test_an_unsure_mask_is_drawn_again_and_the_surest_is_kept(generator: PairsGenerator) -> None:
    first = drawn(generator, 3, redraws=0, min_confidence=1.0)
    again = drawn(generator, 3, redraws=4, min_confidence=1.0)
    assert {sample.attempt for sample in first} <= set(range(8))
    for once, often in zip(first, again, strict=True):
        assert often.mask_confidence >= once.mask_confidence
    assert any(sample.attempt > 0 for sample in again)


def test_parts_without_a_mask_end_in_one_sentence(generator: PairsGenerator) -> None:
    blind = replace(
        generator, terms=replace(generator.terms, rules={"spot": MaskRule((127, 127, 127), 255.0, 255.0, 0.9, 0.5)})
    )
    with pytest.raises(DataError, match=r"pairs/plate/spot/dual/000000: no visible defect in 8 draws; the adapter"):
        drawn(blind, 1)


def test_a_defect_that_the_adapter_never_saw_is_refused(generator: PairsGenerator) -> None:
    with pytest.raises(BackboneError, match="the pair adapter draws spot and not hole; run personalize_pairs again"):
        prepare(generator.backbone, PARENTS, shots(), adapter="a", terms=generator.terms, defect="hole")


def test_prompts_are_not_embedded_where_the_adapter_is_not_at_work(generator: PairsGenerator) -> None:
    backbone = open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)
    with pytest.raises(ValueError, match=r"prompts of pairs are embedded inside dual_sample\.two_branches"):
        prepare(backbone, PARENTS, shots(), adapter="a", terms=generator.terms, defect="spot")


def test_with_background_compensation_each_pair_reads_its_own_parents_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)
    spec = method(background="code", steps=1)
    saved = fit(backbone, {"spot": shots()}, subject(backbone.identity), spec, compute=COMPUTE, store=Blobs())
    assert saved.shape.background == "code"
    terms = replace(terms_from_json(saved.terms), rules={"spot": MaskRule((127, 127, 127), 40.0, 25.0, 0.0, 0.5)})
    given: list[torch.Tensor] = []
    draw = dual_pairs.draw_pairs

    def watched(backbone, prompts, *, backgrounds, **others):  # type: ignore[no-untyped-def]
        given.append(backgrounds)
        return draw(backbone, prompts, backgrounds=backgrounds, **others)

    monkeypatch.setattr(dual_pairs, "draw_pairs", watched)
    with two_branches(backbone, open_dual(backbone.unet, saved, backbone=backbone.identity)):
        made = prepare(
            backbone, PARENTS, shots(), adapter=saved.digest, terms=terms, defect="spot", with_backgrounds=True
        )
        samples = drawn(made, 2, strength=1.0, blend_px=None, redraws=0)
    grounds = [background_image(parent.image, segment_object(parent.image)) for parent in PARENTS]
    encoded = backbone.encode(grounds)
    assert len(samples) == len(given[0]) == 2
    for row in given[0]:
        assert min(float((row - ground).abs().max()) for ground in encoded) < 1e-5
    assert not torch.allclose(encoded[0], encoded[1])


def test_the_profile_and_its_numbers_are_in_what_shapes_a_shard() -> None:
    values = drawing_values(method(profile="default"))
    assert values["profile"] == "default"
    assert (values["solver"], values["steps"], values["guidance"], values["at_once"]) == ("dpm_solver", 25, 2.0, None)
    assert "lr" not in values
    assert "checkpoint_every" not in values


def test_terms_of_another_form_are_refused() -> None:
    with pytest.raises(BackboneError, match="the pair adapter does not say how to draw with it"):
        terms_from_json({"prompts": {}})
