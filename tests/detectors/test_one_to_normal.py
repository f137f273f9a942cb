"""One-to-Normal on a toy backbone and a tiny encoder: mechanics, invariants, bad input."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anosynth.detectors import triplet
from anosynth.detectors.one_to_normal import Explanation, OneToNormal
from anosynth.detectors.personalizer import TwinSource
from anosynth.detectors.presets import BEST, PAPER, switches
from anosynth.detectors.protocol import LabelledImage
from anosynth.errors import BackboneError, DataError, ParamsError
from anosynth.features.aligned import class_prototypes
from tests.detectors.one_to_normal_parts import adapter, backbone, detector, source, spec
from tests.detectors.planted import planted
from tests.detectors.tiny_aligned import TinyAligned
from tests.diffusion.test_sample import batches_seen

BRANCHES = ("personalized", "normal", "text")


def normals(count: int = 3) -> tuple[LabelledImage, ...]:
    return planted("cast_metal", None, "train", count)


def queries(count: int = 2) -> list[tuple[str, np.ndarray]]:
    """Half normal, half with a hole."""
    items = (*planted("cast_metal", None, "test", count), *planted("cast_metal", "hole", "test", count))
    return [(f"{at}", item.image) for at, item in enumerate(items)]


def fitted(preset: str = "paper", *, shots: int = 3, seed: int = 0, **changes: object) -> OneToNormal:
    built = detector(preset, seed=seed, **changes)
    built.fit(normals(shots), ())
    return built


def explained(built: OneToNormal, images: list[tuple[str, np.ndarray]]) -> list[Explanation]:
    return list(built.explain(images))


@pytest.mark.parametrize("preset", ["paper", "best"])
def test_a_query_gets_a_twin_three_maps_of_its_size_and_a_score(preset: str) -> None:
    images = [(name, np.ascontiguousarray(np.kron(image, np.ones((1, 2, 1), np.uint8)))) for name, image in queries()]
    wide = [LabelledImage(one.name, np.repeat(one.image, 2, axis=1), None, False) for one in normals()]
    built = detector(preset)
    built.fit(wide, ())
    found = explained(built, images)
    assert len(found) == 4
    for one, (name, image) in zip(found, images, strict=True):
        assert one.prediction.id == name
        assert one.twin is not None
        assert one.twin.shape == (64, 64, 3)
        assert tuple(one.maps) == tuple(one.scores) == BRANCHES
        for drawn in (*one.maps.values(), one.prediction.anomaly_map):
            assert drawn.shape == image.shape[:2] == (64, 128)
            assert drawn.dtype == np.float32
        assert one.anomalous == (one.prediction.score > one.threshold)


def test_the_paper_score_is_the_formula_of_section_4() -> None:
    """A = S_P + S_N + 0.5 S_text from the encoder's patches, without any of the detector's own code for them."""
    built, encoder = fitted(), TinyAligned()
    image = queries()[3][1]
    found = explained(built, [("x", image)])[0]
    query, twin = (encoder.patch_levels([one]) for one in (image, found.twin))
    bank = encoder.patch_levels([one.image for one in normals()])
    prototypes = class_prototypes(encoder, "washer")
    s_p = np.mean([(1 - (q[0] * t[0]).sum(-1)).max() for q, t in zip(query, twin, strict=True)])
    s_n = np.mean(
        [
            (1 - q[0].reshape(64, -1) @ m.reshape(-1, m.shape[-1]).T).min(axis=1).max()
            for q, m in zip(query, bank, strict=True)
        ]
    )
    logits = [encoder.temperature * encoder.project(level, q[0]) @ prototypes.T for level, q in enumerate(query)]
    s_t = np.mean([(np.exp(one[..., 1]) / np.exp(one).sum(-1)).max() for one in logits])
    assert found.scores["personalized"] == pytest.approx(s_p, abs=1e-5)
    assert found.scores["normal"] == pytest.approx(s_n, abs=1e-5)
    assert found.scores["text"] == pytest.approx(s_t, abs=1e-5)
    assert found.prediction.score == pytest.approx(s_p + s_n + 0.5 * s_t, abs=1e-5)


def test_as_the_strength_goes_to_0_a_twin_is_the_round_trip_and_s_p_is_0_against_it() -> None:
    built = fitted(strength=1e-4, round_trip=True, branches=["personalized"])
    for one in explained(built, queries()):
        assert one.scores["personalized"] == 0.0
        assert not one.maps["personalized"].any()
    given = queries()[0][1]
    assert np.array_equal(explained(built, [("x", given)])[0].twin, backbone().decode(backbone().encode([given]))[0])


def test_s_p_of_a_query_with_itself_is_0() -> None:
    patches = TinyAligned().patch_levels([queries()[0][1]])
    maps = triplet.same_position([level[0] for level in patches], patches)
    assert triplet.branch_score(maps) == 0.0


class Repaired:
    """A memory of twins that are known: none while fitting, then the picture before the defect."""

    def __init__(self) -> None:
        self.pictures: np.ndarray | None = None

    def get(self, key: str) -> np.ndarray | None:
        return self.pictures

    def put(self, key: str, pictures: np.ndarray) -> None:
        del key, pictures


@pytest.mark.parametrize("preset", ["paper", "best"])
def test_a_planted_defect_raises_each_branch_and_every_map_peaks_on_it(preset: str) -> None:
    """The toy backbone cannot repair, so twins are known: three times the picture before the defect."""
    memory = Repaired()
    given = replace(source(), memory=memory)
    built = OneToNormal(TinyAligned(), given, spec=spec(preset), name="washer", seed=0, opening={})
    built.fit(normals(), ())
    counted = dict.fromkeys((*BRANCHES, "fused"), 0)
    for at, item in enumerate(planted("cast_metal", None, "test", 6)):
        spoiled = item.image.copy()
        top, left = 8 + 8 * (at % 3), 16 + 8 * (at % 2)
        spoiled[top : top + 12, left : left + 12] //= 6
        found = []
        for image in (item.image, spoiled):
            memory.pictures = np.stack([*[item.image] * 3, image])
            found += explained(built, [("x", image)])
        after = found[1]
        assert np.array_equal(after.twin, item.image)
        maps = {**after.maps, "fused": after.prediction.anomaly_map}
        scores = [{**one.scores, "fused": one.prediction.score} for one in found]
        for name, drawn in maps.items():
            peak = np.unravel_index(np.argmax(drawn), drawn.shape)
            on = top - 4 <= peak[0] < top + 16 and left - 4 <= peak[1] < left + 16
            counted[name] += int(on and scores[1][name] > scores[0][name])
    assert counted == dict.fromkeys((*BRANCHES, "fused"), 6)


@pytest.mark.parametrize("preset", ["paper", "best"])
def test_scores_depend_on_neither_batch_nor_order(preset: str) -> None:
    built, images = fitted(preset, shots=2), queries()
    together = {one.prediction.id: one for one in explained(built, images)}
    backwards = {one.prediction.id: one for one in explained(built, images[::-1])}
    alone = {name: explained(built, [(name, image)])[0] for name, image in images}
    assert len(together) == 4
    for name, one in together.items():
        for other in (backwards[name], alone[name]):
            assert other.prediction.score == pytest.approx(one.prediction.score, abs=2e-3)
            assert np.allclose(other.prediction.anomaly_map, one.prediction.anomaly_map, atol=2e-3)


@pytest.mark.parametrize("preset", ["paper", "best"])
def test_a_bundle_round_trip_changes_no_bit(preset: str, tmp_path: Path) -> None:
    built = detector(preset, seed=7)
    built.fit((*normals(), *(LabelledImage(f"s{i}", one.image, None, True) for i, one in enumerate(planted(
        "cast_metal", None, "pool", 4)))), ())  # fmt: skip
    built.save(tmp_path)
    again = detector(preset, seed=0)
    again.load(tmp_path)
    for first, second in zip(explained(built, queries()), explained(again, queries()), strict=True):
        assert first.prediction.score == second.prediction.score
        assert first.threshold == second.threshold
        assert np.array_equal(first.prediction.anomaly_map, second.prediction.anomaly_map)
        assert np.array_equal(first.twin, second.twin)
    folder = tmp_path / "again"
    folder.mkdir()
    again.save(folder)
    for name in ("detector.json", "weights.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("preset", ["paper", "best"])
def test_one_reference_is_enough(preset: str) -> None:
    found = explained(fitted(preset, shots=1), queries())
    assert len(found) == 4
    assert all(np.isfinite([one.prediction.score, one.threshold]).all() for one in found)


def test_the_noise_seed_shapes_twins_and_travels_with_the_bundle(tmp_path: Path) -> None:
    first, other = fitted(seed=1), fitted(seed=2)
    one, two = (explained(built, queries())[0] for built in (first, other))
    assert not np.array_equal(one.twin, two.twin)
    first.save(tmp_path)
    other.load(tmp_path)
    assert np.array_equal(explained(other, queries())[0].twin, one.twin)


class Memory:
    """Twins by key."""

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}

    def get(self, key: str) -> np.ndarray | None:
        return self.kept.get(key)

    def put(self, key: str, pictures: np.ndarray) -> None:
        self.kept[key] = pictures


def test_a_memory_spares_the_drawing_and_changes_no_score() -> None:
    shared = replace(source(), memory=Memory())
    calls, scores = [], []
    for given, changes in (
        (source(), {}),
        (shared, {}),
        (shared, {"select": "patch_min"}),
        (shared, {"strength": 0.2}),
    ):
        built = OneToNormal(TinyAligned(), given, spec=spec(**changes), name="washer", seed=0, opening={})
        with batches_seen(backbone().unet) as seen:
            built.fit(normals(), ())
            found = explained(built, queries())
        calls.append(len(seen))
        scores.append([one.prediction.score for one in found])
    assert scores[0] == scores[1]
    assert calls[0] == calls[1] > 0
    assert calls[2] == 0
    assert calls[3] > 0


@pytest.mark.parametrize("select", ["ssim_loss", "ssim_min", "bank", "patch_min"])
def test_every_choice_among_the_twins_follows_its_rule(select: str) -> None:
    built = fitted(select=select, branches=["personalized", "normal"])
    image = queries()[3][1]
    found = explained(built, [("x", image)])[0]
    drawn = built._generator().draw([image], strength=0.3)[0]
    assert {drawn.likest, drawn.unlikest} <= {0, 1, 2}
    encoder, (own,) = TinyAligned(), [TinyAligned().patch_levels([image])]
    each = [triplet.same_position([level[0] for level in own], encoder.patch_levels([twin])) for twin in drawn.twins]
    bank = built._known.references.banks(synthetic_weight=1.0)
    normality = [
        triplet.branch_score(triplet.nearest_normal([level[0] for level in encoder.patch_levels([twin])], bank))
        for twin in drawn.twins
    ]
    wanted = {
        "ssim_loss": each[drawn.likest],
        "ssim_min": each[drawn.unlikest],
        "bank": each[int(np.argmin(normality))],
        "patch_min": np.min(each, axis=0),
    }[select]
    assert found.scores["personalized"] == pytest.approx(triplet.branch_score(wanted), abs=1e-5)


def test_a_single_branch_works_and_without_s_p_no_generator_is_opened() -> None:
    def refuse() -> None:
        raise AssertionError("opened")

    closed = TwinSource(refuse, refuse, refuse, 64)  # type: ignore[arg-type]
    for branch in BRANCHES[1:]:
        built = OneToNormal(TinyAligned(), closed, spec=spec(branches=[branch]), name="washer", seed=0, opening={})
        built.fit(normals(), ())
        found = explained(built, queries())
        assert [tuple(one.scores) for one in found] == [(branch,)] * 4
        assert all(one.twin is None for one in found)
    assert tuple(explained(fitted(branches=["personalized"]), queries())[0].scores) == ("personalized",)


def test_a_generated_pool_fills_the_bank_up_to_its_size_and_no_further() -> None:
    pool = [
        LabelledImage(f"s{at}", one.image, None, True) for at, one in enumerate(planted("cast_metal", None, "p", 9))
    ]
    for size, wanted in ((30, 9), (8, 5), (3, 0), (2, 0)):
        built = detector(bank_images=size, branches=["normal"])
        built.fit((*normals(), *pool), ())
        assert len(built._known.references.real[0]) == 3
        assert len(built._known.references.synthetic[0]) == wanted
        with_pool = explained(built, queries())[0].scores["normal"]
        assert with_pool <= explained(fitted(branches=["normal"]), queries())[0].scores["normal"]


def test_without_a_reference_its_generated_likes_leave_the_bank_too() -> None:
    twin_of = normals()[1].image.copy()
    twin_of[::7] //= 2
    built = detector(branches=["normal"])
    built.fit((*normals(), LabelledImage("s", twin_of, None, True)), ())
    references = built._known.references
    assert references.parents.tolist() == [1]
    for left_out, synthetic in ((None, 64), (0, 64), (1, 0)):
        bank = references.banks(synthetic_weight=1.0, without=left_out)[0]
        assert (len(bank.real), len(bank.synthetic)) == (192 if left_out is None else 128, synthetic)


def test_the_cascade_draws_twins_only_inside_its_band() -> None:
    images = queries()
    drawn = {}
    for name, band in (("all", (-1e9, 1e9)), ("none", (1e8, 1e9)), ("plain", None)):
        built = fitted(cascade=band)
        with batches_seen(backbone().unet) as seen:
            found = explained(built, images)
        drawn[name] = (len(seen), [one.prediction.score for one in found], [one.twin is None for one in found])
    assert drawn["all"] == drawn["plain"]
    calls, scores, without = drawn["none"]
    assert calls == 0
    assert all(without)
    usual = float(fitted()._known.branches["personalized"].mean)
    whole = explained(fitted(), images)
    for score, one in zip(scores, whole, strict=True):
        assert score == pytest.approx(usual + one.scores["normal"] + 0.5 * one.scores["text"], abs=1e-5)


def test_the_presets_differ_in_every_switch_and_a_switch_overrides_its_preset() -> None:
    differing = {name for name, value in vars(PAPER).items() if value != getattr(BEST, name)}
    assert differing == set(vars(PAPER)) - {"strengths", "second_pass"}
    assert switches(spec("paper", steps=None, guidance=None, strengths=None)) == PAPER
    assert switches(spec("best", steps=None, guidance=None, strengths=None)) == BEST
    assert switches(spec("best", steps=None, guidance=None, strengths=None, second_pass=False)).second_pass is False


def test_bad_input_ends_in_one_sentence() -> None:
    built = fitted(branches=["normal"])
    image = queries()[0][1]
    with pytest.raises(DataError, match="needs at least one real normal image"):
        detector().fit([LabelledImage("s", image, None, True)], ())
    with pytest.raises(DataError, match="needs at least one real normal image"):
        detector().fit((), ())
    with pytest.raises(DataError, match="q: the query is one of the references"):
        explained(built, [("q", normals()[1].image)])
    with pytest.raises(DataError, match=r"q: width over height is 2\.000, of the references 1\.000"):
        explained(built, [("q", np.repeat(image, 2, axis=1))])
    any_aspect = fitted(branches=["normal"], aspect_tolerance=None)
    assert len(explained(any_aspect, [("q", np.repeat(image, 2, axis=1))])) == 1
    for wrong in (image[:, :, :1], image[:, :, 0], np.zeros((64, 64, 4), np.uint8), image.astype(np.float32)):
        with pytest.raises(DataError, match="a query is 8-bit RGB"):
            explained(built, [("q", wrong)])
    with pytest.raises(RuntimeError, match="fit or load"):
        explained(detector(), queries())


@pytest.mark.parametrize("name", ["", "   ", "_"])
def test_an_object_name_that_tokenizes_to_nothing_is_refused(name: str) -> None:
    with pytest.raises(ParamsError, match="holds no letter or digit"):
        detector(name=name).fit(normals(), ())


def test_a_bundle_meets_no_other_encoder_backbone_or_switch(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    other = OneToNormal(TinyAligned("other"), source(), spec=spec(), name="washer", seed=0, opening={"backbone": "toy"})
    with pytest.raises(BackboneError, match="fitted with features 'tiny', now it is 'other'"):
        other.load(tmp_path)
    elsewhere = TwinSource(backbone, lambda: "0" * 32, adapter, 64)
    other = OneToNormal(TinyAligned(), elsewhere, spec=spec(), name="washer", seed=0, opening={"backbone": "toy"})
    with pytest.raises(BackboneError, match=r"fitted with backbone .* now it is '0000"):
        other.load(tmp_path)
    with pytest.raises(BackboneError, match="fitted with spec"):
        detector(alpha=2.0).load(tmp_path)


def test_an_adapter_of_another_backbone_is_refused() -> None:
    foreign = TwinSource(backbone, lambda: backbone().identity, lambda: replace(adapter(), backbone="f" * 32), 64)
    built = OneToNormal(TinyAligned(), foreign, spec=spec(), name="washer", seed=0, opening={})
    with pytest.raises(BackboneError, match="trained on the backbone ffffffffffff"):
        built.fit(normals(), ())


def test_the_strength_is_chosen_on_the_references_among_the_candidates(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="anosynth.detectors"):
        built = fitted("best", strengths=(0.1, 0.4), second_pass=False)
    assert built._known.strength in (0.1, 0.4)
    line = next(one.message for one in caplog.records if "separation" in one.message)
    values = {float(part.split()[0]): float(part.split()[-1].rstrip(")")) for part in line.split(" of ")[1].split(", ")}
    assert values[built._known.strength] == max(values.values())


class Blind(TinyAligned):
    """An encoder whose text space knows nothing of the picture."""

    def project(self, level: int, patches: np.ndarray) -> np.ndarray:
        """One direction for every patch."""
        return np.broadcast_to(np.float32([0.6, 0.8, 0.0]), (*patches.shape[:-1], 3))


def test_text_that_cannot_tell_planted_defects_loses_its_weight_and_the_bank_keeps_its_own() -> None:
    for encoder, blind in ((TinyAligned(), False), (Blind(), True)):
        changes = {"branches": ["normal", "text"], "weigh_text": True}
        built = OneToNormal(encoder, source(), spec=spec(**changes), name="washer", seed=0, opening={})
        built.fit(normals(), ())
        weights = built._known.weights
        assert weights["normal"] == 1.0
        assert (weights["text"] == 0.0) == blind


class Headed(TinyAligned):
    """An encoder whose last level alone is taken to text."""

    text_levels = (1,)
    local_levels = (0,)


@pytest.mark.parametrize(("visual_levels", "counted"), [("all", (0, 1)), ("local", (0,))])
def test_local_levels_leave_out_those_that_go_to_text(visual_levels: str, counted: tuple[int, ...]) -> None:
    changes = {"visual_levels": visual_levels, "branches": ["normal", "personalized"]}
    built = OneToNormal(Headed(), source(), spec=spec(**changes), name="washer", seed=0, opening={})
    built.fit(normals(2), ())
    found = explained(built, queries()[3:])[0]
    query, twin = (Headed().patch_levels([image]) for image in (queries()[3][1], found.twin))
    bank = Headed().patch_levels([one.image for one in normals(2)])
    far = [(1 - query[at][0].reshape(64, -1) @ bank[at].reshape(128, -1).T).min(axis=1).max() for at in counted]
    apart = [(1 - (query[at][0] * twin[at][0]).sum(-1)).max() for at in counted]
    assert found.scores["normal"] == pytest.approx(np.mean(far), abs=1e-5)
    assert found.scores["personalized"] == pytest.approx(np.mean(apart), abs=1e-5)


def test_joint_levels_are_compared_as_one_so_that_one_patch_must_match_them_all() -> None:
    """The cosine of patches side by side is the mean of their cosines; both of this encoder's levels count."""
    built = fitted(visual_levels="joint", branches=["normal", "personalized"], shots=2)
    for found, (_, image) in zip(explained(built, queries()), queries(), strict=True):
        query, twin = (TinyAligned().patch_levels([one]) for one in (image, found.twin))
        bank = TinyAligned().patch_levels([one.image for one in normals(2)])
        flat = [[level.reshape(-1, level.shape[-1]) for level in levels] for levels in (query, twin, bank)]
        cosines = np.mean([q @ m.T for q, m in zip(flat[0], flat[2], strict=True)], axis=0)
        same_place = np.mean([(q * t).sum(-1) for q, t in zip(flat[0], flat[1], strict=True)], axis=0)
        assert found.scores["normal"] == pytest.approx((1 - cosines.max(axis=1)).max(), abs=1e-6)
        assert found.scores["personalized"] == pytest.approx((1 - same_place).max(), abs=1e-6)
