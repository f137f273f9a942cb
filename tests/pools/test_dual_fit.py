"""Training a pair adapter on shots, with the toy backbone."""

import json
import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from anosynth.diffusion.dual_adapters import dual_from_bytes, dual_to_bytes, open_dual
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.errors import DataError, TrainingError
from anosynth.params import ComputeParams, ToyBackbone
from anosynth.pools import dual_fit
from anosynth.pools.dual_fit import Candidate, Chosen, candidate_steps, fit, stored_dual, views
from anosynth.pools.dual_terms import drawing_values, terms_from_json, training_values
from anosynth.pools.masks import GREY
from anosynth.pools.real import RealPair
from tests.blobs import Blobs
from tests.pools.dual_small import full_mask, method, shots, subject
from tests.pools.small import disk, spotted

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def backbone() -> LatentDiffusion:
    return open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)


def fitted(backbone: LatentDiffusion, blobs: Blobs, **changes: object) -> dual_fit.SavedDual:
    return fit(backbone, {"spot": shots()}, subject(backbone.identity), method(**changes), compute=COMPUTE, store=blobs)


def test_an_adapter_says_how_to_draw_with_it_and_is_found_in_the_store(backbone: LatentDiffusion) -> None:
    blobs = Blobs()
    saved = fitted(backbone, blobs)
    terms = terms_from_json(saved.terms)
    assert terms.prompts == {"spot": ("a photo of round plate with dark spot", "dark spot")}
    assert terms.shot_ids == {"spot": tuple(pair.sha256 for pair in shots())}
    assert terms.rules["spot"].key == GREY
    assert (terms.licence, terms.size_px) == ("CC0-1.0", 64)
    found = stored_dual(subject(backbone.identity).fingerprint(method(), COMPUTE), blobs)
    assert found is not None
    assert found.digest == saved.digest


def test_a_training_stopped_at_a_checkpoint_ends_like_an_unbroken_one(backbone: LatentDiffusion) -> None:
    whole = fitted(backbone, Blobs())
    blobs = Blobs(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        fitted(backbone, blobs)
    blobs.stop_after = None
    resumed = fitted(backbone, blobs)
    assert resumed.digest == whole.digest
    assert resumed.facts == whole.facts


def test_the_probe_sees_the_same_pairs_timesteps_and_noise_every_time(
    backbone: LatentDiffusion, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="anosynth.diffusion.dual_train"):
        still = fitted(backbone, Blobs(), lr=1e-12, steps=5).facts
    lines = [json.loads(record.message) for record in caplog.records if record.name == "anosynth.diffusion.dual_train"]
    assert [line["step"] for line in lines] == [0, 2, 4, 5]
    losses = [line["probe_loss"] for line in lines]
    assert max(losses) - min(losses) < 1e-5
    assert still["probe_loss_before"] == pytest.approx(losses[0])
    moved = fitted(backbone, Blobs(), lr=5e-2, steps=5).facts
    assert moved["probe_loss_before"] == still["probe_loss_before"]
    assert moved["probe_loss_after"] != still["probe_loss_after"]


def keep_first(candidates: Sequence[Candidate]) -> Chosen:
    return Chosen(candidates[0].step, {"seen": [[one.step, one.saved.digest] for one in candidates]})


def chosen(backbone: LatentDiffusion, blobs: Blobs, **changes: object) -> dual_fit.SavedDual:
    spec = method(**{"candidates": 3, **changes})
    return fit(
        backbone,
        {"spot": shots()},
        subject(backbone.identity),
        spec,
        compute=COMPUTE,
        store=blobs,
        choose=keep_first,
    )


def test_a_candidate_is_what_a_shorter_training_gives_and_the_chosen_one_is_kept(backbone: LatentDiffusion) -> None:
    blobs = Blobs()
    kept = chosen(backbone, blobs, lr=1e-2)
    shorter = [fitted(backbone, Blobs(), lr=1e-2, steps=steps).digest for steps in (1, 2, 3)]
    assert len(set(shorter)) == 3
    assert kept.facts["kept_by"] == {"seen": [[step, digest] for step, digest in zip((1, 2, 3), shorter, strict=True)]}
    assert kept.facts["kept_step"] == 1
    assert kept.digest == shorter[0]
    spec = method(candidates=3, lr=1e-2)
    found = stored_dual(subject(backbone.identity).fingerprint(spec, COMPUTE), blobs)
    assert found is not None
    assert (found.digest, found.facts) == (kept.digest, kept.facts)


@pytest.mark.parametrize("blobs_put", [1, 2, 3, 4])
def test_candidates_of_a_stopped_training_are_those_of_an_unbroken_one(
    backbone: LatentDiffusion, blobs_put: int
) -> None:
    whole = chosen(backbone, Blobs(), lr=1e-2)
    blobs = Blobs(stop_after=blobs_put)
    with pytest.raises(KeyboardInterrupt):
        chosen(backbone, blobs, lr=1e-2)
    blobs.stop_after = None
    assert chosen(backbone, blobs, lr=1e-2).facts == whole.facts


def test_candidates_are_spaced_evenly_and_none_is_taken_twice() -> None:
    spaced = [candidate_steps(method(steps=steps, candidates=n)) for steps, n in ((150, 3), (10, 4), (2, 3), (7, 1))]
    assert spaced == [(50, 100, 150), (3, 5, 8, 10), (1, 2), (7,)]


def test_candidates_need_something_to_choose_by(backbone: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="2 candidates and nothing to choose by"):
        fitted(backbone, Blobs(), candidates=2)


def test_a_decoder_is_trained_and_kept_where_it_is_asked_for(backbone: LatentDiffusion) -> None:
    plain, own = (fitted(backbone, Blobs(), decoder_steps=steps) for steps in (0, 2))
    assert not plain.decoder
    assert set(own.decoder) == set(dict(backbone.vae.decoder.named_parameters()))
    again = dual_from_bytes(dual_to_bytes(own), name="x")
    assert again.digest == own.digest != plain.digest
    assert again.tensors.keys() == own.tensors.keys() == plain.tensors.keys()
    assert all(torch.equal(value, again.decoder[name]) for name, value in own.decoder.items())
    assert open_dual(backbone.unet, again, backbone=backbone.identity).decoder.keys() == own.decoder.keys()


def test_only_what_shapes_the_adapter_is_in_its_fingerprint() -> None:
    base = subject("b").fingerprint(method(), COMPUTE)
    drawing_only = {"profile": "paper", "strength": 0.9, "redraws": 7, "min_confidence": 0.9, "checkpoint_every": 9}
    drawing_only |= {"place": "anywhere", "detail": 0.0}
    training = {"lr": 2e-3, "steps": 4, "prompt": "dirty {defect}", "shared": True, "views": 3, "key": "chosen"}
    training |= {"candidates": 2, "candidate_draws": 3, "text_rank": 2, "decoder_steps": 3, "decoder_lr": 1e-5}
    training |= {"masks": "learned"}
    for name, value in drawing_only.items():
        assert subject("b").fingerprint(method(**{name: value}), COMPUTE) == base, name
    for name, value in training.items():
        assert subject("b").fingerprint(method(**{name: value}), COMPUTE) != base, name
    assert subject("c").fingerprint(method(), COMPUTE) != base


def test_without_a_lora_of_the_text_encoder_the_fingerprint_does_not_know_of_one() -> None:
    assert subject("b").fingerprint(method(), COMPUTE) == subject("b").fingerprint(method(text_rank=0), COMPUTE)
    assert "text_rank" not in training_values(method())
    assert training_values(method(text_rank=2))["text_rank"] == 2
    assert "text_rank" not in drawing_values(method(text_rank=2))


@pytest.mark.parametrize("text_rank", [-1, 513, 1.5])
def test_a_rank_that_is_none_is_refused_by_its_name(text_rank: float) -> None:
    with pytest.raises(ValidationError, match="text_rank"):
        method(text_rank=text_rank)


@pytest.mark.parametrize("blobs_put", [1, 2, 3])
def test_with_a_lora_of_the_text_encoder_a_stopped_training_ends_like_an_unbroken_one(
    backbone: LatentDiffusion, blobs_put: int
) -> None:
    whole = chosen(backbone, Blobs(), text_rank=2, lr=1e-2)
    assert sum(name.startswith("text:") for name in whole.tensors) == 2 * 8
    blobs = Blobs(stop_after=blobs_put)
    with pytest.raises(KeyboardInterrupt):
        chosen(backbone, blobs, text_rank=2, lr=1e-2)
    blobs.stop_after = None
    resumed = chosen(backbone, blobs, text_rank=2, lr=1e-2)
    assert resumed.digest == whole.digest
    assert resumed.facts == whole.facts


def test_the_autoencoder_and_the_text_encoder_are_not_asked_once_training_runs(
    backbone: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    encode, embed, predict = (getattr(LatentDiffusion, name) for name in ("encode_moments", "embed", "predict"))

    def counted(name: str, method: object) -> object:
        def called(self: LatentDiffusion, *arguments: object) -> object:
            calls.append(name)
            return method(self, *arguments)  # type: ignore[operator]

        return called

    for name, function in (("encode_moments", encode), ("embed", embed), ("predict", predict)):
        monkeypatch.setattr(LatentDiffusion, name, counted(name, function))
    fitted(backbone, Blobs(), steps=5)
    first = calls.index("predict")
    assert calls[first:] == ["predict"] * (5 + 4)  # steps, and the probe: before, at two checkpoints, after
    assert {"encode_moments", "embed"} <= set(calls[:first])


def test_one_adapter_may_serve_several_defects(backbone: LatentDiffusion) -> None:
    both = {"spot": shots(), "bar": shots(2, at=30)}
    saved = fit(
        backbone, both, subject(backbone.identity, defects=("spot", "bar")), method(), compute=COMPUTE, store=Blobs()
    )
    assert set(terms_from_json(saved.terms).prompts) == {"spot", "bar"}


def test_views_move_image_and_mask_alike() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[20:30, 10:22] = 255
    pair = RealPair(image, np.ascontiguousarray(image[:, :, 0]), "s", "CC0-1.0")
    made = list(views(pair, count=9, max_shift_ratio=0.1, mirror=True, seed=1))
    assert len(made) == 9
    for seen, mask in made:
        np.testing.assert_array_equal(seen[:, :, 0], mask)
    np.testing.assert_array_equal(made[0][1], pair.mask)
    np.testing.assert_array_equal(made[1][1], pair.mask[:, ::-1])
    assert len({mask.tobytes() for _, mask in made}) >= 6


def test_nothing_is_mirrored_unless_a_mirror_image_is_normal_too() -> None:
    image = disk(0)
    image[20:24, 10:50] = np.arange(40, dtype=np.uint8)[None, :, None] * 6  # rises to the right
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[20:24, 10:50] = 255
    made = list(views(RealPair(image, mask, "s", "CC0-1.0"), count=6, max_shift_ratio=0.05, mirror=False, seed=1))
    rises = [np.diff(seen[where > 0].reshape(-1, 40, 3)[0, :, 0].astype(int)).mean() for seen, where in made]
    assert len(rises) == 6
    assert min(rises) > 0


def test_a_shift_that_would_lose_the_defect_is_left_out() -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[0, 0] = 255
    made = list(views(RealPair(disk(0), mask, "s", "CC0-1.0"), count=30, max_shift_ratio=0.3, mirror=False, seed=1))
    assert len(made) == 30
    assert all(one.any() for _, one in made)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), r"plate, spot: a pair adapter learns from anomalous shots and there are none; raise"),
        ((*shots(2), full_mask(shots(3)[2])), r"the mask of shot \w{12} covers the whole image; it shows no place"),
    ],
    ids=["none", "a full mask"],
)
def test_shots_that_nothing_can_be_learned_from_are_refused(
    backbone: LatentDiffusion, given: tuple[RealPair, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        fit(backbone, {"spot": given}, subject(backbone.identity), method(), compute=COMPUTE, store=Blobs())
    assert "\n" not in str(caught.value)


def test_a_single_shot_is_learned_from_by_thresholds_and_with_a_warning(
    backbone: LatentDiffusion, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        saved = fit(
            backbone,
            {"spot": shots(1)},
            subject(backbone.identity, count=1),
            method(masks="learned"),
            compute=COMPUTE,
            store=Blobs(),
        )
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == [
        "plate, spot: the pair adapter learns from a single shot; it can move, turn and redraw that defect and knows "
        "no other"
    ]
    assert terms_from_json(saved.terms).rules["spot"].reader == ""


def test_shots_of_different_sizes_are_brought_to_one(backbone: LatentDiffusion) -> None:
    given = (spotted(disk(0, 96)), spotted(disk(1, 64)))
    saved = fit(
        backbone, {"spot": given}, subject(backbone.identity, count=2), method(), compute=COMPUTE, store=Blobs()
    )
    assert terms_from_json(saved.terms).size_px == 64


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint_and_says_so(backbone: LatentDiffusion) -> None:
    blobs = Blobs()
    with pytest.raises(TrainingError, match=r"training personalize_pairs plate spot: the loss of step \d"):
        fitted(backbone, blobs, lr=0.99, alpha=1e38, steps=6)
    assert not any(key.endswith(".adapter") for key in blobs.kept)
