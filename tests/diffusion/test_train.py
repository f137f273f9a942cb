"""Few-shot training on the toy backbone: draws by the step, caches that are used, resumption to the bit."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from anosynth.diffusion import toy
from anosynth.diffusion.adapters import add_lora, remove_lora
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.latent import LatentDiffusion, Moments
from anosynth.diffusion.loop import LoopSettings, TrainResult
from anosynth.diffusion.train import TrainingSet, TrainSettings, draw_planted, draw_step, held_out_loss, train
from anosynth.params import ComputeParams
from anosynth.seeding import seed_for, torch_generator
from anosynth.shards.store import ShardStore

SHAPE = (4, 8, 8)


class PowerCutError(Exception):
    pass


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def training_set(backbone: LatentDiffusion, *, images: int, caption: str) -> TrainingSet:
    moments = backbone.encode_moments([picture(seed) for seed in range(images)])
    return TrainingSet(moments, backbone.embed([caption]), (0,) * images)


def settings(steps: int, *, lr: float = 1e-3, gamma: float | None = None, prior_weight: float = 1.0) -> TrainSettings:
    loop = LoopSettings(steps=steps, lr=lr, checkpoint_every=2, log_every=100)
    return TrainSettings(loop, batch_size=2, min_snr_gamma=gamma, prior_weight=prior_weight)


def fit(
    backbone: LatentDiffusion, store: ShardStore, chosen: TrainSettings, *, prior: bool = True, key: str = "test/run"
) -> tuple[TrainResult, dict[str, nn.Parameter]]:
    parameters = add_lora(backbone.unet, rank=2, alpha=2.0, seed=0)
    result = train(
        backbone,
        parameters,
        training_set(backbone, images=3, caption="a photo of normal tile"),
        training_set(backbone, images=2, caption="a photo of tile") if prior else None,
        chosen,
        seed=1,
        address=("test", "tile"),
        accelerator=Accelerator(cpu=True),
        checkpoints=store,
        key=key,
    )
    return result, parameters


def test_a_step_draws_the_same_whatever_was_drawn_before() -> None:
    def drawn(step: int, **changes: object) -> Tensor:
        arguments = {"seed": 3, "address": ("run", "shots"), "num_images": 5, "batch_size": 2} | changes
        draws = draw_step(step, num_timesteps=1000, shape=SHAPE, **arguments)  # type: ignore[arg-type]
        return torch.cat([draws.noise.flatten(), draws.posterior.flatten(), draws.timesteps.float()])

    assert torch.equal(drawn(7), drawn(7))
    for other in (drawn(8), drawn(7, seed=4), drawn(7, address=("run", "prior"))):
        assert not torch.equal(drawn(7), other)


def test_every_image_is_seen_once_a_round_and_rounds_differ() -> None:
    seen = []
    for step in range(15):
        draws = draw_step(step, seed=3, address=("x",), num_images=5, batch_size=2, num_timesteps=1000, shape=SHAPE)
        seen += draws.rows.tolist()
    rounds = [tuple(seen[start : start + 5]) for start in range(0, 30, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds)
    assert len(set(rounds)) > 3
    assert set(Counter(seen).values()) == {6}


def test_timesteps_are_uniform_over_the_schedule() -> None:
    draws = draw_step(0, seed=3, address=("x",), num_images=1, batch_size=4000, num_timesteps=1000, shape=(1, 1, 1))
    counts = np.histogram(draws.timesteps.numpy(), bins=10, range=(0, 1000))[0]
    assert counts.sum() == 4000
    assert abs(counts - 400).max() < 100
    assert abs(float(draws.noise.std()) - 1.0) < 0.05


def test_a_step_asks_the_unet_once_and_neither_vae_nor_text_encoder(
    own_backbone: LatentDiffusion, tmp_path: Path
) -> None:
    calls: Counter[str] = Counter()
    shots = training_set(own_backbone, images=3, caption="a photo of normal tile")
    prior = training_set(own_backbone, images=2, caption="a photo of tile")
    parameters = add_lora(own_backbone.unet, rank=2, alpha=2.0, seed=0)
    parts = {
        "encoder": own_backbone.vae.encoder,
        "decoder": own_backbone.vae.decoder,
        "text": own_backbone.text.model,  # type: ignore[attr-defined]
        "unet": own_backbone.unet,
    }
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda _, inputs, name=name: calls.update([name]))  # type: ignore[misc]
    own_backbone.embed(["counted"])
    assert calls == {"text": 1}
    train(
        own_backbone,
        parameters,
        shots,
        prior,
        settings(3),
        seed=1,
        address=("test",),
        accelerator=Accelerator(cpu=True),
        checkpoints=ShardStore(tmp_path),
        key="test/run",
    )
    assert calls == {"text": 1, "unet": 3}


def test_the_loss_of_a_step_is_the_formula_on_its_draws(own_backbone: LatentDiffusion, tmp_path: Path) -> None:
    """L = mean (eps - eps_theta(z_t, t, c))^2 on the shots plus lambda times the same on the prior."""
    result, _ = fit(own_backbone, ShardStore(tmp_path), settings(1, prior_weight=0.5))
    remove_lora(own_backbone.unet)
    total, schedule = 0.0, own_backbone.schedule
    with torch.no_grad():
        for name, images, caption, weight in (
            ("shots", 3, "a photo of normal tile", 1.0),
            ("prior", 2, "a photo of tile", 0.5),
        ):
            draws = draw_step(
                0,
                seed=1,
                address=("test", "tile", name),
                num_images=images,
                batch_size=2,
                num_timesteps=1000,
                shape=SHAPE,
            )
            for index in range(2):
                moments = own_backbone.encode_moments([picture(int(draws.rows[index]))])
                abar = float(schedule.abar[draws.timesteps[index]])
                clean = moments.mean[0] + moments.std[0] * draws.posterior[index]
                noisy = abar**0.5 * clean + (1.0 - abar) ** 0.5 * draws.noise[index]
                guess = own_backbone.predict(
                    noisy[None], draws.timesteps[index : index + 1], own_backbone.embed([caption])
                )
                total += weight * float((draws.noise[index] - guess[0]).square().mean()) / 2
    assert float(result.losses[0]) == pytest.approx(total, rel=1e-5)


def test_only_the_adapter_changes_and_every_matrix_of_it_that_can_does(
    own_backbone: LatentDiffusion, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in own_backbone.unet.state_dict().items()}
    fresh = add_lora(own_backbone.unet, rank=2, alpha=2.0, seed=0)
    start = {name: value.detach().clone() for name, value in fresh.items()}
    remove_lora(own_backbone.unet)
    _, parameters = fit(own_backbone, ShardStore(tmp_path), settings(3))
    kept = {name for name, value in parameters.items() if torch.equal(value, start[name])}
    # At 64 px the middle block has one cell: attention among one has nothing to choose, q and k get no gradient, or one
    # of rounding alone, which Adam takes for a step all the same.
    middle = "mid_block.attentions.0.transformer_blocks.0.attn1"
    assert kept <= {f"{middle}.to_q.lora_B.weight", f"{middle}.to_k.lora_B.weight"}
    assert len(start) == len(parameters) == 160
    remove_lora(own_backbone.unet)
    after = own_backbone.unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_run_killed_between_steps_ends_with_the_same_bits(compute: ComputeParams, tmp_path: Path) -> None:
    def fresh(*, steps_to_live: int) -> LatentDiffusion:
        backbone, lived = LatentDiffusion.on(toy.build(0), compute=compute), Counter[str]()

        def die(_: nn.Module, _inputs: object) -> None:
            lived.update(["step"])
            if lived["step"] > steps_to_live:
                raise PowerCutError

        backbone.unet.register_forward_pre_hook(die)
        return backbone

    whole, wanted = fit(fresh(steps_to_live=5), ShardStore(tmp_path / "whole"), settings(5))
    store = ShardStore(tmp_path / "cut")
    for steps_to_live in (3, 1):
        with pytest.raises(PowerCutError):
            fit(fresh(steps_to_live=steps_to_live), store, settings(5))
    result, parameters = fit(fresh(steps_to_live=3), store, settings(5))
    assert (whole.resumed_from, result.resumed_from) == (0, 2)
    assert result.losses.tobytes() == whole.losses.tobytes()
    for name, value in parameters.items():
        assert torch.equal(value, wanted[name])


def test_training_lowers_the_denoising_error_of_its_pictures(own_backbone: LatentDiffusion, tmp_path: Path) -> None:
    shots = training_set(own_backbone, images=3, caption="a photo of normal tile")
    noise = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(9))
    timesteps = torch.tensor([100, 400, 700])

    def error() -> float:
        noisy = own_backbone.schedule.add_noise(shots.moments.mean, noise, timesteps)
        with torch.no_grad():
            return float((own_backbone.predict(noisy, timesteps, shots.text.rows([0] * 3)) - noise).square().mean())

    before = error()
    fit(own_backbone, ShardStore(tmp_path), settings(15, lr=3e-2), prior=False)
    assert error() < 0.95 * before


def test_weights_over_timesteps_reach_the_loss(own_backbone: LatentDiffusion, tmp_path: Path) -> None:
    plain, _ = fit(own_backbone, ShardStore(tmp_path), settings(4), prior=False, key="test/plain")
    remove_lora(own_backbone.unet)
    capped, _ = fit(own_backbone, ShardStore(tmp_path), settings(4, gamma=0.05), prior=False, key="test/capped")
    assert (capped.losses < plain.losses).any()
    assert (capped.losses <= plain.losses * (1.0 + 1e-3)).all()


@pytest.fixture
def no_accelerator() -> Iterator[None]:
    """accelerate holds one number format per process; forget it before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("no_accelerator")
def test_bfloat16_training_follows_float32_and_keeps_the_adapter_in_float32(
    own_backbone: LatentDiffusion, tmp_path: Path
) -> None:
    fine, _ = fit(own_backbone, ShardStore(tmp_path), settings(3), key="test/fine")
    AcceleratorState._reset_state(reset_partial_state=True)
    compute = ComputeParams(threads=1, dtype="bfloat16", device="cpu")
    coarse = LatentDiffusion.on(toy.build(0), compute=compute)
    parameters = add_lora(coarse.unet, rank=2, alpha=2.0, seed=0)
    result = train(
        coarse,
        parameters,
        training_set(coarse, images=3, caption="a photo of normal tile"),
        training_set(coarse, images=2, caption="a photo of tile"),
        settings(3),
        seed=1,
        address=("test", "tile"),
        accelerator=accelerator_for(compute),
        checkpoints=ShardStore(tmp_path),
        key="test/coarse",
    )
    assert {value.dtype for value in parameters.values()} == {torch.float32}
    assert np.allclose(result.losses, fine.losses, rtol=0.03)


def test_a_set_without_images_or_captions_is_refused() -> None:
    empty = Moments(torch.zeros(0, *SHAPE), torch.zeros(0, *SHAPE))
    with pytest.raises(ValueError, match="0 images and 0 captions"):
        TrainingSet(empty, None, ())  # type: ignore[arg-type]


def with_planted(backbone: LatentDiffusion, *, images: int) -> TrainingSet:
    """Two variants of each picture, with a white and a black square."""
    plain = training_set(backbone, images=images, caption="a photo of normal tile")
    variants = []
    for seed in range(images):
        both = [picture(seed), picture(seed)]
        both[0][16:32, 16:32], both[1][32:48, 8:24] = 255, 0
        variants.append(backbone.encode(both))
    return TrainingSet(plain.moments, plain.text, plain.captions, planted=torch.stack(variants))


def test_planted_draws_follow_the_step_their_ratio_and_their_limit() -> None:
    def drawn(step: int) -> tuple[Tensor, ...]:
        draws = draw_planted(
            step, seed=3, address=("x",), batch_size=4000, num_variants=7, planted_ratio=0.75, num_timesteps=400
        )
        return draws.used, draws.variants, draws.timesteps, draws.shares

    used, variants, timesteps, shares = drawn(5)
    assert all(torch.equal(one, other) for one, other in zip(drawn(5), drawn(5), strict=True))
    assert not torch.equal(used, drawn(6)[0])
    assert abs(float(used.float().mean()) - 0.75) < 0.03
    assert set(variants.tolist()) == set(range(7))
    assert (int(timesteps.min()), int(timesteps.max())) == (0, 399)
    assert abs(float((shares == 1.0).float().mean()) - 0.5) < 0.03
    assert float(shares.min()) >= 0.0


def test_the_loss_with_planted_defects_asks_for_the_clean_latents(
    own_backbone: LatentDiffusion, tmp_path: Path
) -> None:
    """A row that begins at z_0 + s d is to say the noise with which z_0 would be where it is, weighed by Min-SNR."""
    shots, schedule = with_planted(own_backbone, images=3), own_backbone.schedule
    assert shots.planted is not None
    chosen = TrainSettings(LoopSettings(1, 1e-3, 1, 1), batch_size=8, planted_ratio=0.6, planted_below=0.4)
    result = train(
        own_backbone,
        add_lora(own_backbone.unet, rank=2, alpha=2.0, seed=0),
        shots,
        None,
        chosen,
        seed=1,
        address=("test",),
        accelerator=Accelerator(cpu=True),
        checkpoints=ShardStore(tmp_path),
        key="test/run",
    )
    remove_lora(own_backbone.unet)
    where = ("test", "shots")
    draws = draw_step(0, seed=1, address=where, num_images=3, batch_size=8, num_timesteps=1000, shape=SHAPE)
    more = draw_planted(0, seed=1, address=where, batch_size=8, num_variants=2, planted_ratio=0.6, num_timesteps=400)
    assert set(more.used.tolist()) == {True, False}
    total = 0.0
    for index, row in enumerate(draws.rows.tolist()):
        clean = shots.moments.mean[row] + shots.moments.std[row] * draws.posterior[index]
        begun, timestep, gamma = clean, int(draws.timesteps[index]), None
        if more.used[index]:
            defect = shots.planted[row, more.variants[index]] - shots.moments.mean[row]
            begun, timestep, gamma = clean + more.shares[index] * defect, int(more.timesteps[index]), 5.0
        abar = float(schedule.abar[timestep])
        noisy = abar**0.5 * begun + (1.0 - abar) ** 0.5 * draws.noise[index]
        wanted = (noisy - abar**0.5 * clean) / (1.0 - abar) ** 0.5
        with torch.no_grad():
            guess = own_backbone.predict(noisy[None], torch.tensor([timestep]), shots.text)[0]
        ratio = abar / (1.0 - abar)
        weight = 1.0 if gamma is None else min(ratio, gamma) / ratio
        total += weight * float((wanted - guess).square().mean()) / 8
    assert float(result.losses[0]) == pytest.approx(total, rel=1e-4)


def test_a_share_of_zero_trains_as_without_variants(own_backbone: LatentDiffusion, tmp_path: Path) -> None:
    plain, _ = fit(own_backbone, ShardStore(tmp_path / "plain"), settings(2), prior=False)
    remove_lora(own_backbone.unet)
    with_variants = train(
        own_backbone,
        add_lora(own_backbone.unet, rank=2, alpha=2.0, seed=0),
        with_planted(own_backbone, images=3),
        None,
        settings(2),
        seed=1,
        address=("test", "tile"),
        accelerator=Accelerator(cpu=True),
        checkpoints=ShardStore(tmp_path / "variants"),
        key="test/run",
    )
    assert with_variants.losses.tobytes() == plain.losses.tobytes()


def test_variants_for_other_images_are_refused(backbone: LatentDiffusion) -> None:
    three, two = with_planted(backbone, images=3), with_planted(backbone, images=2)
    with pytest.raises(ValueError, match="3 images and planted defects for 2"):
        TrainingSet(three.moments, three.text, three.captions, planted=two.planted)


def test_the_held_out_loss_is_the_error_of_every_image_at_eight_levels(own_backbone: LatentDiffusion) -> None:
    """Of the U-Net as it is at the time; a second look at the same weights sees the same."""
    images = training_set(own_backbone, images=3, caption="a photo of normal tile")
    look = held_out_loss(own_backbone, images, seed=1, address=("test",))

    def naive() -> float:
        total, ran = 0.0, 0
        for row in range(3):
            generator = torch_generator(seed_for(1, "test", "held_out", row))
            noise = torch.randn(8, *SHAPE, generator=generator)
            for n in range(8):
                timestep = (2 * n + 1) * 1000 // 16
                abar = float(own_backbone.schedule.abar[timestep])
                noisy = abar**0.5 * images.moments.mean[row] + (1.0 - abar) ** 0.5 * noise[n]
                guess = own_backbone.predict(noisy[None], torch.tensor([timestep]), images.text)[0]
                total, ran = total + float((guess - noise[n]).square().mean()), ran + 1
        assert ran == 24
        return total / ran

    assert own_backbone.schedule.prediction == "epsilon"
    with torch.no_grad():
        before = float(look())
        assert before == pytest.approx(naive(), rel=1e-5)
        assert float(look()) == before
        own_backbone.unet.conv_out.bias.add_(0.5)
        assert float(look()) == pytest.approx(naive(), rel=1e-5)
        assert abs(float(look()) - before) > 0.01
