"""Training and drawing of pairs on the toy backbone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from anosynth.diffusion import dual
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.dual import DualAdapter, DualShape, attach, attach_merged, attention_layers, detach
from anosynth.diffusion.dual_sample import DualPrompts, draw_pairs, two_branches
from anosynth.diffusion.dual_train import DualSet, DualTrainSettings, train_dual
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.diffusion.loop import LoopSettings
from anosynth.diffusion.solver import SamplerSettings
from anosynth.errors import TrainingError
from anosynth.params import ComputeParams, ToyBackbone
from anosynth.seeding import torch_generators
from tests.blobs import Blobs

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
SHAPE = DualShape(mode="default", rank=2, alpha=2.0, inner=4)
SIZE = 64


@pytest.fixture(scope="module")
def backbone() -> Iterator[LatentDiffusion]:
    with torch.random.fork_rng():
        yield open_backbone(ToyBackbone(kind="toy", seed=0), compute=COMPUTE)


def adapter_of(backbone: LatentDiffusion, seed: int = 0) -> DualAdapter:
    return DualAdapter(backbone.unet, SHAPE, generator=torch.Generator().manual_seed(seed))


def moved(adapter: DualAdapter) -> DualAdapter:
    """Every tensor away from its start."""
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return adapter


def prompts(backbone: LatentDiffusion) -> DualPrompts:
    return DualPrompts(backbone.embed(["a vfx with sks"]), backbone.embed(["sks"]), backbone.embed([""]))


def shots(backbone: LatentDiffusion) -> DualSet:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(3)]
    parts = [np.where(np.arange(SIZE)[:, None, None] < 20, image, 127).astype(np.uint8) for image in images]
    return DualSet(
        backbone.encode_moments(images),
        backbone.encode_moments(parts),
        backbone.embed(["a vfx with sks", "sks"]),
        (0, 0, 0),
        (1, 1, 1),
    )


def fit(backbone: LatentDiffusion, blobs: Blobs, *, lr: float = 1e-3) -> tuple[DualAdapter, np.ndarray]:
    adapter = adapter_of(backbone)
    result = train_dual(
        backbone,
        adapter,
        shots(backbone),
        DualTrainSettings(LoopSettings(steps=6, lr=lr, checkpoint_every=2, log_every=3), batch_size=2),
        seed=5,
        address=("personalize_pairs", "washer"),
        accelerator=accelerator_for(COMPUTE),
        checkpoints=blobs,
        key="pairs",
    )
    return adapter, result.losses


def test_a_run_stopped_between_checkpoints_ends_like_an_unbroken_one(backbone: LatentDiffusion) -> None:
    whole, losses = fit(backbone, Blobs())
    blobs = Blobs(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        fit(backbone, blobs)
    blobs.stop_after = None
    resumed, again = fit(backbone, blobs)
    assert np.array_equal(losses, again)
    assert len(losses) == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_training_leaves_the_backbone_as_it_was(backbone: LatentDiffusion) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.unet.state_dict().items()}
    fit(backbone, Blobs())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.unet.state_dict().items())
    assert all(isinstance(layer.processor, AttnProcessor2_0) for layer in attention_layers(backbone.unet).values())


def test_a_loss_that_is_not_finite_ends_training_with_its_step(backbone: LatentDiffusion) -> None:
    with pytest.raises(TrainingError, match=r"the loss of step \d or its gradient is not finite"):
        fit(backbone, Blobs(), lr=0.99e30)


def test_a_pair_does_not_depend_on_its_batch_and_follows_its_seed(backbone: LatentDiffusion) -> None:
    settings = SamplerSettings("dpm_solver", 4, 2.5)
    with two_branches(backbone, moved(adapter_of(backbone))):
        many = draw_pairs(
            backbone, prompts(backbone), size_px=SIZE, settings=settings, generators=torch_generators([1, 2, 3])
        )
        one = draw_pairs(backbone, prompts(backbone), size_px=SIZE, settings=settings, generators=torch_generators([2]))
    for together, alone in zip(many, one, strict=True):
        assert together.shape == (3, SIZE, SIZE, 3)
        assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 1
        assert np.abs(together[0].astype(int) - together[1].astype(int)).max() > 10


def test_the_subjects_decoder_shows_whole_images_and_not_parts(backbone: LatentDiffusion) -> None:
    settings = SamplerSettings("ddim", 3, 1.0)
    weights = {name: 0.9 * value.detach().half() for name, value in backbone.vae.decoder.named_parameters()}
    with two_branches(backbone, moved(adapter_of(backbone))):
        own, theirs = (
            draw_pairs(
                backbone,
                prompts(backbone),
                size_px=SIZE,
                settings=settings,
                generators=torch_generators([4]),
                decoder=decoder,
            )
            for decoder in (None, weights)
        )
    assert np.array_equal(own[1], theirs[1])
    assert not np.array_equal(own[0], theirs[0])


def test_merged_branches_draw_what_the_trained_branches_draw(backbone: LatentDiffusion) -> None:
    settings = SamplerSettings("ddim", 3, 1.0)
    adapter = moved(adapter_of(backbone))
    with two_branches(backbone, adapter):
        merged = draw_pairs(
            backbone, prompts(backbone), size_px=SIZE, settings=settings, generators=torch_generators([4])
        )
    attach(backbone.unet, adapter)
    loose = draw_pairs(backbone, prompts(backbone), size_px=SIZE, settings=settings, generators=torch_generators([4]))
    detach(backbone.unet)
    for a, b in zip(merged, loose, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_a_parent_hardly_changes_at_little_strength(backbone: LatentDiffusion) -> None:
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    parents = backbone.encode([image])
    with two_branches(backbone, moved(adapter_of(backbone))):
        whole, _ = draw_pairs(
            backbone,
            prompts(backbone),
            size_px=SIZE,
            settings=SamplerSettings("ddim", 10, 1.0),
            generators=torch_generators([6]),
            parents=parents,
            strength=0.0,
        )
    assert np.array_equal(whole, backbone.decode(parents))


def test_keys_and_values_of_the_prompts_are_computed_once_a_run(
    backbone: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    product = dual._product

    def counted(features: torch.Tensor, weights: torch.Tensor, *, parts: int) -> tuple[torch.Tensor, ...]:
        calls.append(parts)
        return product(features, weights, parts=parts)

    monkeypatch.setattr(dual, "_product", counted)
    settings = SamplerSettings("ddim", 5, 2.5)
    with two_branches(backbone, adapter_of(backbone)):
        draw_pairs(backbone, prompts(backbone), size_px=SIZE, settings=settings, generators=torch_generators([1]))
    cross = sum(layer.is_cross_attention for layer in attention_layers(backbone.unet).values())
    assert cross > 0
    assert calls.count(2) == cross


def test_guidance_without_the_empty_prompt_is_refused(backbone: LatentDiffusion) -> None:
    told = prompts(backbone)
    with pytest.raises(ValueError, match="needs the embedding of the empty prompt"):
        draw_pairs(
            backbone,
            DualPrompts(told.whole, told.part),
            size_px=SIZE,
            settings=SamplerSettings("ddim", 2, 2.0),
            generators=torch_generators([1]),
        )


def test_the_merged_form_is_installed_on_every_layer(backbone: LatentDiffusion) -> None:
    attach_merged(backbone.unet, adapter_of(backbone))
    kinds = {type(layer.processor).__name__ for layer in attention_layers(backbone.unet).values()}
    detach(backbone.unet)
    assert kinds == {"MergedProcessor"}
