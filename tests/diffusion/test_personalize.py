"""Personalization: shots in, one adapter out, resumable, the backbone as it was."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anosynth.diffusion.adapters import Adapter, lora_parameters
from anosynth.diffusion.decoder import personalized
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.diffusion.personalize import ALGORITHM, STAGE, Subject, personalize, prior_set, shot_set, stored_adapter
from anosynth.diffusion.planting import planted
from anosynth.diffusion.sample import draw_again
from anosynth.diffusion.solver import SamplerSettings
from anosynth.diffusion.train import draw_step, held_out_loss
from anosynth.diffusion.views import NormalViews, views_of
from anosynth.errors import ParamsError, TrainingError
from anosynth.params import ComputeParams, EmbeddedBackbone, PersonalizeNormalsParams
from anosynth.seeding import seed_for, torch_generators
from anosynth.shards.store import ShardStore
from anosynth.sources.procedural.render import render_pair

SETTINGS = PersonalizeNormalsParams(
    rank=2, alpha=2.0, lr=1e-3, steps=3, batch_size=2, prior_images=3, prior_steps=2, checkpoint_every=2, log_every=2
)
# Recorded by this test; they change only together with personalize.ALGORITHM.
GOLDEN_ALGORITHM = 2
GOLDEN_LOSSES = {"loss_first_tenth": 2.320062, "loss_last_tenth": 2.220014, "loss_mean": 2.337942}
GOLDEN_NORM = 65.90682
MIRRORED = NormalViews(mirror=True)


class PowerCutError(Exception):
    pass


def pictures() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))


def subject(backbone: LatentDiffusion) -> Subject:
    return Subject("tile", "ceramic tile", MIRRORED, ("a" * 64, "b" * 64), 64, backbone.identity, 7)


def trained(
    backbone: LatentDiffusion,
    compute: ComputeParams,
    store: ShardStore,
    settings: PersonalizeNormalsParams = SETTINGS,
) -> Adapter:
    return personalize(backbone, pictures(), subject(backbone), settings, compute=compute, store=store)


def test_the_backbone_is_left_as_it_was_and_the_store_holds_the_adapter(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    store, before = (
        ShardStore(tmp_path),
        {name: value.clone() for name, value in own_backbone.unet.state_dict().items()},
    )
    fingerprint = subject(own_backbone).fingerprint(SETTINGS, compute)
    assert stored_adapter(fingerprint, store) is None
    adapter = trained(own_backbone, compute, store)
    assert not lora_parameters(own_backbone.unet)
    assert all(torch.equal(value, before[name]) for name, value in own_backbone.unet.state_dict().items())
    kept = stored_adapter(fingerprint, store)
    assert kept is not None
    assert kept.digest == adapter.digest
    assert kept.facts == adapter.facts
    assert adapter.facts["prompt"] == "a photo of normal ceramic tile"
    assert adapter.facts["shot_ids"] == ["a" * 64, "b" * 64]
    assert adapter.backbone == own_backbone.identity


def test_results_change_only_with_the_algorithm_number(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    adapter = trained(own_backbone, compute, ShardStore(tmp_path))
    assert ALGORITHM == GOLDEN_ALGORITHM
    for name, value in GOLDEN_LOSSES.items():
        assert adapter.facts[name] == pytest.approx(value, rel=1e-4)
    assert sum(float(value.norm()) for value in adapter.tensors.values()) == pytest.approx(GOLDEN_NORM, rel=1e-3)


def test_a_killed_run_goes_on_to_the_same_adapter_and_draws_its_prior_once(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    wanted = trained(own_backbone, compute, ShardStore(tmp_path / "whole"))
    store, calls, limit = ShardStore(tmp_path / "cut"), [0], [0]

    def count(_: nn.Module, _inputs: object) -> None:
        calls[0] += 1
        if calls[0] > limit[0]:
            raise PowerCutError

    handle = own_backbone.unet.register_forward_pre_hook(count)
    limit[0] = 4 + 2  # two batches of prior images of two steps, then two training steps
    with pytest.raises(PowerCutError):
        trained(own_backbone, compute, store)
    assert not lora_parameters(own_backbone.unet)
    calls[0], limit[0] = 0, 1  # the prior set and two steps are stored: one step is left
    adapter = trained(own_backbone, compute, store)
    handle.remove()
    assert adapter.digest == wanted.digest
    assert adapter.facts == wanted.facts


def test_without_prior_weight_or_images_no_prior_is_drawn(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    calls = [0]

    def count(_: nn.Module, _inputs: object) -> None:
        calls[0] += 1

    own_backbone.unet.register_forward_pre_hook(count)
    for change in ({"prior_weight": 0.0}, {"prior_images": 0}):
        calls[0] = 0
        trained(own_backbone, compute, ShardStore(tmp_path / str(change)), SETTINGS.model_copy(update=change))
        assert calls[0] == SETTINGS.steps


def test_the_prior_set_is_what_the_untouched_backbone_draws_of_the_class(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    store = ShardStore(tmp_path)
    drawn = prior_set(own_backbone, subject(own_backbone), SETTINGS, compute=compute, store=store)
    again = prior_set(own_backbone, subject(own_backbone), SETTINGS, compute=compute, store=store)
    assert drawn.moments.mean.shape == (3, 4, 8, 8)
    assert torch.equal(drawn.moments.mean, again.moments.mean)
    assert drawn.moments.std.abs().max() == 0.0
    assert torch.equal(drawn.text.states, own_backbone.embed(["a photo of ceramic tile"]).states)
    guided = SETTINGS.model_copy(update={"prior_guidance": 3.0})
    other = prior_set(own_backbone, subject(own_backbone), guided, compute=compute, store=store)
    assert not torch.allclose(other.moments.mean, drawn.moments.mean, atol=1e-2)


def test_mirrored_shots_join_only_where_a_mirror_image_is_normal(own_backbone: LatentDiffusion) -> None:
    images = pictures()
    plain = shot_set(own_backbone, images, caption="tile", allowed=NormalViews(), seed=0)
    both = shot_set(own_backbone, images, caption="tile", allowed=MIRRORED, seed=0)
    assert (len(plain.moments), len(both.moments)) == (2, 4)
    flipped = own_backbone.encode([np.ascontiguousarray(images[1][:, ::-1])])
    assert torch.allclose(both.moments.mean[3:], flipped, atol=1e-4)
    assert torch.allclose(both.moments.mean[2:3], plain.moments.mean[1:], atol=1e-4)


TURNED = NormalViews(mirror=True, max_turn_deg=10.0, max_shift_ratio=0.1, max_light_ratio=0.2)


def all_views(count: int, seed: int) -> list[np.ndarray]:
    """Shot after shot: itself, its mirror image, and `count` - 1 views of both."""
    return [
        view
        for row, image in enumerate(pictures())
        for view in views_of(image, TURNED, num_views=count, seed=seed_for(seed, "views", row))
    ]


def test_every_view_of_every_shot_is_in_the_set(own_backbone: LatentDiffusion) -> None:
    found = shot_set(own_backbone, pictures(), caption="tile", allowed=TURNED, views=3, seed=5)
    views = all_views(3, 5)
    assert len(found.moments) == len(views) == len({view.tobytes() for view in views}) == 12
    for row, view in enumerate(views):
        assert torch.allclose(found.moments.mean[row], own_backbone.encode([view])[0], atol=1e-4)


def test_training_with_views_is_training_on_those_pictures(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"views": 3, "steps": 4, "prior_weight": 0.0})

    def digest(images: list[np.ndarray], allowed: NormalViews, views: int) -> str:
        whose, store = replace(subject(own_backbone), allowed=allowed), ShardStore(tmp_path / f"{views}{len(images)}")
        given = settings.model_copy(update={"views": views})
        return personalize(own_backbone, images, whose, given, compute=compute, store=store).digest

    found = digest(pictures(), TURNED, 3)
    assert found == digest(all_views(3, seed_for(7, STAGE, "tile", "planted")), NormalViews(), 1)
    assert found != digest(pictures(), TURNED, 1)


def _moved(value: object) -> object:
    match value:
        case bool():
            return not value
        case NormalViews():
            return replace(value, max_turn_deg=1.0)
        case "attention":
            return "blocks"
        case str():
            return value + "x"
        case tuple():
            return value[:1]
        case int() | float():
            return value + 1
        case None:
            return 5.0
    raise AssertionError(value)


def test_the_fingerprint_follows_everything_that_shapes_the_adapter_and_nothing_else(
    backbone: LatentDiffusion, compute: ComputeParams
) -> None:
    base = subject(backbone)
    seen = {base.fingerprint(SETTINGS, compute)}
    changes = 0
    for name, value in vars(base).items():
        seen.add(replace(base, **{name: _moved(value)}).fingerprint(SETTINGS, compute))
        changes += 1
    for name in PersonalizeNormalsParams.model_fields:
        changed = SETTINGS.model_copy(update={name: _moved(getattr(SETTINGS, name))})
        if name in ("checkpoint_every", "log_every"):
            assert base.fingerprint(changed, compute) in seen
        else:
            seen.add(base.fingerprint(changed, compute))
            changes += 1
    seen.add(base.fingerprint(SETTINGS, compute.model_copy(update={"threads": 2})))
    assert len(seen) == changes + 2
    assert changes == 7 + 24


@pytest.mark.parametrize("layers", ["blocks", "unet"])
def test_more_layers_than_attention_are_trained_stored_and_drawn_with(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path, layers: str
) -> None:
    settings = SETTINGS.model_copy(update={"target_layers": layers, "prior_weight": 0.0})
    before = {name: value.clone() for name, value in own_backbone.unet.state_dict().items()}
    store = ShardStore(tmp_path)
    adapter = trained(own_backbone, compute, store, settings)
    assert all(torch.equal(value, before[name]) for name, value in own_backbone.unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in own_backbone.unet.parameters())
    kept = stored_adapter(subject(own_backbone).fingerprint(settings, compute), store)
    assert kept is not None
    assert kept.digest == adapter.digest
    with personalized(own_backbone, kept):
        changed = {
            name for name, value in own_backbone.unet.state_dict().items() if not torch.equal(value, before[name])
        }
    resnet = "mid_block.resnets.0.conv1.weight"
    assert resnet in changed
    assert ("conv_in.weight" in changed) == (layers == "unet")
    assert all(torch.equal(value, before[name]) for name, value in own_backbone.unet.state_dict().items())


def test_the_whole_unet_ends_where_plain_adamw_on_all_its_parameters_does(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    """One step, written out: w - lr (0.01 w + g / (|g| + 1e-8)), g clipped to a norm of 1 over all parameters."""
    settings = SETTINGS.model_copy(update={"target_layers": "unet", "prior_weight": 0.0, "steps": 1})
    shots = shot_set(own_backbone, pictures(), caption="a photo of normal ceramic tile", allowed=MIRRORED, seed=0)
    shape = shots.moments.mean.shape[1:]
    draws = draw_step(
        0, seed=7, address=(STAGE, "tile", "shots"), num_images=4, batch_size=2, num_timesteps=1000, shape=shape
    )
    clean = shots.moments.mean[draws.rows] + shots.moments.std[draws.rows] * draws.posterior
    abar = own_backbone.schedule.abar[draws.timesteps].float().reshape(2, 1, 1, 1)
    noisy = abar.sqrt() * clean + (1.0 - abar).sqrt() * draws.noise
    before = dict(own_backbone.unet.named_parameters())
    own_backbone.unet.requires_grad_(True)
    with torch.enable_grad():
        guess = own_backbone.predict(noisy, draws.timesteps, shots.text.rows([0, 0]))
        gradients = torch.autograd.grad((guess - draws.noise).square().mean(), list(before.values()))
    own_backbone.unet.requires_grad_(False)
    norm = sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5

    adapter = trained(own_backbone, compute, ShardStore(tmp_path), settings)
    assert set(adapter.tensors) == {f"{name}.delta" for name in before}
    compared = 0
    for (name, value), gradient in zip(before.items(), gradients, strict=True):
        moved, clipped = adapter.tensors[f"{name}.delta"].double(), gradient.double() * min(1.0, 1.0 / norm)
        wanted = -settings.lr * (1e-2 * value.detach().double() + clipped / (clipped.abs() + 1e-8))
        known = (clipped.abs() > 1e-5) | (clipped == 0.0)  # the sign of less is rounding's
        assert torch.allclose(moved[known], wanted[known], rtol=0.0, atol=3e-6), name
        compared += int(known.sum())
    assert len(gradients) == 440
    assert compared > 0.9 * sum(value.numel() for value in before.values())


def test_held_out_shots_end_training_early_and_the_best_step_is_kept(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    """On noise nothing is learned for the other picture: a large rate makes it worse, when is up to rounding."""
    more = {"held_out": 1, "validate_every": 2, "patience": 2, "steps": 300, "lr": 0.3, "prior_weight": 0.0}
    settings = SETTINGS.model_copy(update=more)
    adapter = trained(own_backbone, compute, ShardStore(tmp_path / "whole"), settings)
    taken, best = adapter.facts["steps_taken"], adapter.facts["steps"]
    assert isinstance(taken, int)
    assert isinstance(best, int)
    assert best < taken < 300
    assert taken == best + 2 * 2
    shorter = settings.model_copy(update={"steps": best})
    assert trained(own_backbone, compute, ShardStore(tmp_path / "short"), shorter).digest == adapter.digest


def test_not_every_shot_can_be_held_out(own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"held_out": 2})
    with pytest.raises(ParamsError, match=r"held_out: 2 of the 2 normal shots of tile .*allowed: 0 to 1"):
        trained(own_backbone, compute, ShardStore(tmp_path), settings)


def test_views_of_the_one_shot_end_training_early_and_are_not_the_ones_trained_on(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    """Noise that is shifted is another picture; a large rate soon makes it worse."""
    more = {"held_out_views": 3, "validate_every": 2, "patience": 2, "steps": 30, "lr": 0.3, "prior_weight": 0.0}
    settings = SETTINGS.model_copy(update=more)
    alone = replace(subject(own_backbone), shot_ids=("a" * 64,), allowed=NormalViews(mirror=True, max_shift_ratio=0.3))

    def adapter(folder: str, **changes: object) -> Adapter:
        given, store = settings.model_copy(update=changes), ShardStore(tmp_path / folder)
        return personalize(own_backbone, pictures()[:1], alone, given, compute=compute, store=store)

    stopped = adapter("stopped")
    taken, best = stopped.facts["steps_taken"], stopped.facts["steps"]
    assert isinstance(best, int)
    assert best < 30
    assert taken == best + 2 * 2
    free = adapter("free", held_out_views=0, steps=best)
    assert free.facts["held_out_loss"] is None
    assert free.digest == stopped.digest
    seed = seed_for(7, STAGE, "tile", "held_out_views")
    unseen = views_of(pictures()[0], alone.allowed, num_views=4, seed=seed_for(seed, 0))[2:]
    assert len(unseen) == 6
    images = shot_set(own_backbone, unseen, caption="a photo of normal ceramic tile", allowed=NormalViews(), seed=0)
    with personalized(own_backbone, stopped), torch.no_grad():
        loss = float(held_out_loss(own_backbone, images, seed=7, address=(STAGE, "tile"))())
    assert stopped.facts["held_out_loss"] == pytest.approx(loss, rel=1e-3)


def test_views_that_would_be_the_shots_themselves_cannot_be_held_out(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"held_out_views": 2})
    with pytest.raises(ParamsError, match=r"held_out_views: 2 views .* of tile would be the shots themselves; let"):
        trained(own_backbone, compute, ShardStore(tmp_path), settings)


def test_a_learning_rate_that_explodes_ends_in_one_sentence_and_keeps_no_adapter(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    store = ShardStore(tmp_path)
    with torch.no_grad():
        own_backbone.unet.conv_out.weight.fill_(float("inf"))
    settings = SETTINGS.model_copy(update={"prior_weight": 0.0})
    with pytest.raises(TrainingError, match="training personalize_normals tile: the loss of step 0"):
        trained(own_backbone, compute, store, settings)
    assert stored_adapter(subject(own_backbone).fingerprint(settings, compute), store) is None
    assert not lora_parameters(own_backbone.unet)


def test_facts_are_json_and_hold_no_time_or_place(
    own_backbone: LatentDiffusion, compute: ComputeParams, tmp_path: Path
) -> None:
    facts: Mapping[str, object] = trained(own_backbone, compute, ShardStore(tmp_path)).facts
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts) == {
        "stage", "category", "fingerprint", "prompt", "prior_prompt", "shot_ids", "settings", "steps",
        "steps_taken", "held_out_loss", "loss_first_tenth", "loss_last_tenth", "loss_mean",
    }  # fmt: skip


def test_planted_variants_are_made_of_every_view_by_the_seed(backbone: LatentDiffusion) -> None:
    def variants(seed: int) -> torch.Tensor:
        found = shot_set(backbone, pictures(), caption="x", allowed=MIRRORED, planted_variants=3, seed=seed).planted
        assert found is not None
        return found

    first = variants(1)
    assert first.shape == (
        4,
        3,
        *shot_set(backbone, pictures(), caption="x", allowed=MIRRORED, seed=0).moments.mean.shape[1:],
    )
    assert torch.equal(first, variants(1))
    assert not torch.equal(first, variants(2))
    wanted = backbone.encode([planted(pictures()[1][:, ::-1], seed=seed_for(1, 3, n)) for n in range(3)])
    assert torch.equal(first[3], wanted)
    assert shot_set(backbone, pictures(), caption="x", allowed=MIRRORED, seed=0).planted is None


def test_a_generator_leaves_the_planted_defect_out_that_it_learned_and_keeps_the_rest(tmp_path: Path) -> None:
    """One washer and one variant of it, against the backbone without an adapter, which leaves the defect in."""
    compute = ComputeParams(threads=1, dtype="float32", device="cpu")
    backbone = open_backbone(EmbeddedBackbone(kind="embedded"), compute=compute)
    sound = render_pair("washer", defect="scratch", seed=3, size_px=128).sound.image
    whose = Subject("washer", "steel washer", NormalViews(), ("a" * 64,), 128, backbone.identity, 7)
    spoiled = planted(sound, seed=seed_for(seed_for(7, STAGE, "washer", "planted"), 0, 0))
    clean, trip = backbone.decode(backbone.encode([sound, spoiled])).astype(float)
    defect = np.abs(trip - clean).mean(axis=2)
    inside = defect > 15.0

    def errors() -> tuple[float, float]:
        drawn = draw_again(
            backbone,
            backbone.encode([spoiled]),
            backbone.embed(["a photo of normal steel washer"]),
            strengths=[0.3],
            settings=SamplerSettings("dpm_solver", 20, 1.0),
            generators=torch_generators([1]),
            blank=None,
        )
        error = np.abs(backbone.decode(drawn)[0].astype(float) - clean).mean(axis=2)
        return float(error[inside].mean()), float(error[~inside].mean())

    without = errors()
    settings = PersonalizeNormalsParams(
        rank=16, alpha=16.0, lr=5e-3, steps=50, batch_size=2, prior_images=0, falling=True, planted_variants=1
    )
    adapter = personalize(backbone, [sound], whose, settings, compute=compute, store=ShardStore(tmp_path))
    with personalized(backbone, adapter):
        learned = errors()
    assert without[0] > 0.9 * defect[inside].mean()
    assert learned[0] < 0.8 * without[0]
    assert learned[1] < without[1]
