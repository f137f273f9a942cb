"""A subject's decoder: trained further on its shots, at work while it draws and at no other time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from anosynth.diffusion.adapters import Adapter, adapter_from_bytes, adapter_to_bytes, read_adapter, save_adapter
from anosynth.diffusion.decoder import decoding, fit_decoder, personalized
from anosynth.diffusion.devices import accelerator_for
from anosynth.diffusion.latent import LatentDiffusion, open_backbone
from anosynth.diffusion.loop import LoopSettings
from anosynth.diffusion.personalize import Subject, personalize
from anosynth.diffusion.views import NormalViews
from anosynth.errors import BackboneError, TrainingError
from anosynth.params import ComputeParams, EmbeddedBackbone, PersonalizeNormalsParams
from anosynth.sources.procedural.render import render
from tests.blobs import Blobs

COMPUTE = ComputeParams(threads=1, dtype="float32", device="cpu")
SIZE_PX = 64


@pytest.fixture(scope="module")
def backbone() -> LatentDiffusion:
    return open_backbone(EmbeddedBackbone(kind="embedded"), compute=COMPUTE)


@pytest.fixture(scope="module")
def shots() -> list[np.ndarray]:
    return [render("leather", defect=None, seed=seed, size_px=SIZE_PX).image for seed in range(6)]


def fitted(
    backbone: LatentDiffusion,
    images: Sequence[np.ndarray],
    steps: int,
    store: Blobs | None = None,
    *,
    lr: float = 3e-4,
) -> dict[str, torch.Tensor]:
    return fit_decoder(
        backbone,
        images,
        LoopSettings(steps=steps, lr=lr, checkpoint_every=2, log_every=10, falling=True),
        seed=1,
        address=("test",),
        accelerator=accelerator_for(COMPUTE),
        checkpoints=Blobs() if store is None else store,
        key="decoder",
    )


def error(backbone: LatentDiffusion, images: Sequence[np.ndarray]) -> float:
    trips = backbone.decode(backbone.encode(images))
    return float(np.mean([np.abs(trip.astype(float) - one).mean() for trip, one in zip(trips, images, strict=True)]))


@pytest.mark.slow
def test_unseen_pictures_of_the_subject_come_back_better(backbone: LatentDiffusion) -> None:
    photograph, rng = load_sample_image("flower.jpg")[100:300, 200:400], np.random.default_rng(0)
    places = rng.integers(0, 200 - 128, (12, 2))
    windows = [np.ascontiguousarray(photograph[top : top + 128, left : left + 128]) for top, left in places]
    before = error(backbone, windows[8:])
    with decoding(backbone, fitted(backbone, windows[:8], 40)):
        after = error(backbone, windows[8:])
    assert after < 0.92 * before
    assert error(backbone, windows[8:]) == before


def test_the_decoder_is_back_bit_for_bit_even_after_an_error(
    backbone: LatentDiffusion, shots: list[np.ndarray]
) -> None:
    weights = fitted(backbone, shots, 2)
    before = {name: value.clone() for name, value in backbone.vae.state_dict().items()}
    inside: dict[str, torch.Tensor] = {}

    def fail() -> None:
        with decoding(backbone, weights):
            inside.update({name: value.clone() for name, value in backbone.vae.state_dict().items()})
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    after = backbone.vae.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    moved = {name for name, value in inside.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("decoder.") for name in moved)
    for name, value in weights.items():
        assert torch.equal(inside[f"decoder.{name}"], value.float())


def test_a_training_that_was_stopped_ends_like_an_unbroken_one(
    backbone: LatentDiffusion, shots: list[np.ndarray]
) -> None:
    unbroken, store = fitted(backbone, shots, 4), Blobs()
    fitted(backbone, shots, 4, store)
    assert store.get_blob("decoder") is not None
    again = fitted(backbone, shots, 4, store)
    stopped = Blobs()

    class Stopping(Blobs):
        def put_blob(self, key: str, data: bytes) -> None:
            stopped.put_blob(key, data)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(backbone, shots, 4, Stopping())
    resumed = fitted(backbone, shots, 4, stopped)
    assert unbroken.keys() == again.keys() == resumed.keys()
    for name, value in unbroken.items():
        assert value.dtype == torch.float16
        assert torch.equal(value, again[name])
        assert torch.equal(value, resumed[name])


def test_no_steps_train_nothing_and_an_unfit_rate_ends_in_one_sentence(
    backbone: LatentDiffusion, shots: list[np.ndarray]
) -> None:
    store = Blobs()
    assert fitted(backbone, shots, 0, store) == {}
    assert store.get_blob("decoder") is None
    with decoding(backbone, {}):
        pass
    with pytest.raises(TrainingError, match="training test decoder: the loss of step"):
        fitted(backbone, shots, 30, lr=1e30)


def test_a_decoder_of_another_backbone_is_refused(backbone: LatentDiffusion, shots: list[np.ndarray]) -> None:
    weights = fitted(backbone, shots, 1)
    first, *_ = weights
    for wrong in (
        {name: value for name, value in weights.items() if name != first},
        {**weights, "strange": torch.zeros(1)},
        {**weights, first: torch.zeros(7)},
    ):
        with (
            pytest.raises(BackboneError, match="the adapter's decoder does not fit this backbone: "),
            decoding(backbone, wrong),
        ):
            raise AssertionError("opened")


def test_an_adapter_of_normals_carries_its_decoder(
    backbone: LatentDiffusion, shots: list[np.ndarray], tmp_path: Path
) -> None:
    settings = PersonalizeNormalsParams.model_validate(
        {"rank": 2, "alpha": 2.0, "steps": 1, "batch_size": 1, "prior_images": 0, "decoder_steps": 3}
    )
    subject = Subject("leather", "leather", NormalViews(), tuple(map(str, range(6))), SIZE_PX, backbone.identity, 3)
    adapter = personalize(backbone, shots, subject, settings, compute=COMPUTE, store=Blobs())
    names = set(dict(backbone.vae.decoder.named_parameters()))
    assert set(adapter.decoder) == names
    read = adapter_from_bytes(adapter_to_bytes(adapter), name="x")
    save_adapter(adapter, tmp_path)
    for one in (read, read_adapter(tmp_path)):
        assert one.digest == adapter.digest
        assert set(one.tensors) == set(adapter.tensors)
        assert all(torch.equal(value, one.decoder[name]) for name, value in adapter.decoder.items())
    plain = replace(adapter, decoder={})
    assert plain.digest != adapter.digest
    assert isinstance(plain, Adapter)
    latents = backbone.encode(shots[:1])
    own = backbone.decode(latents)
    with personalized(backbone, adapter):
        theirs = backbone.decode(latents)
    with personalized(backbone, plain):
        np.testing.assert_array_equal(backbone.decode(latents), own)
    assert not np.array_equal(own, theirs)
    np.testing.assert_array_equal(backbone.decode(latents), own)
