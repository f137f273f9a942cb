"""The two training loops: every step repeats itself, parts of a batch add up, stopping changes nothing."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from anosynth.diffusion.autoencoder import UnshuffleAutoencoder
from anosynth.diffusion.embedded import SCHEDULE
from anosynth.diffusion.minilm import MiniLMTextEncoder
from anosynth.diffusion.objective import perceptual_loss, reconstruction_loss
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.errors import ParamsError, TrainingError
from anosynth.features.lite import open_network
from anosynth.pretraining import autoencoder, decoder, denoiser
from anosynth.pretraining.autoencoder import crops
from anosynth.pretraining.corpus import PIECE_ROWS, Corpus
from anosynth.pretraining.decoder import redrawn
from anosynth.pretraining.denoiser import LatentCorpus, draw_batch, encode_pieces, open_latents, velocity_weight
from anosynth.pretraining.recipe import AutoencoderRecipe, DecoderRecipe, DenoiserRecipe, load_recipe
from anosynth.pretraining.replicas import Replicas
from anosynth.pretraining.state import (
    StepReport,
    StepSchedule,
    TrainingState,
    append_log,
    cut_log,
    digest_weights,
    steps_taken,
)

VAE_RECIPE = AutoencoderRecipe(latent_channels=4, steps=6, decay_steps=2, batch_size=4, crop_px=32)
UNET_RECIPE = DenoiserRecipe(
    channels=(32, 64), size_px=64, steps=4, decay_steps=2, batch_size=4, text_dropout=0.5, half_size_ratio=0.5
)

ORIGIN = {"seed": 1, "autoencoder.lr": 1e-3, "denoiser.channels": (32, 64)}
DECODER_RECIPE = DecoderRecipe(steps=4, decay_steps=2, batch_size=4, crop_px=32, redrawn_ratio=0.5)


def _corpus() -> Corpus:
    pixels = np.random.default_rng(0).integers(0, 256, (PIECE_ROWS, 72, 72, 3), dtype=np.uint8)
    words = tuple(f"a photo of thing {row % 3}" for row in range(PIECE_ROWS))
    return Corpus((pixels,), words, ("thing",) * PIECE_ROWS)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return _corpus()


@pytest.fixture(scope="module")
def latents(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> LatentCorpus:
    folder = tmp_path_factory.mktemp("latents")
    vae = autoencoder.start(VAE_RECIPE, seed=1, device="cpu").network
    short = Corpus((corpus.pieces[0][:20],), corpus.captions[:20], corpus.subjects[:20])
    assert list(encode_pieces(vae, short, folder)) == [0]
    assert list(encode_pieces(vae, short, folder)) == []
    return open_latents(short, folder, MiniLMTextEncoder())


def _vae_rows(state: TrainingState, corpus: Corpus) -> Iterator[StepReport]:
    return autoencoder.train(state, corpus, VAE_RECIPE, seed=1, device="cpu", threads=2)


def test_a_stopped_and_resumed_autoencoder_equals_an_unbroken_one(corpus: Corpus, tmp_path: Path) -> None:
    unbroken = autoencoder.start(VAE_RECIPE, seed=1, device="cpu")
    losses = [row.row()["loss"] for row in _vae_rows(unbroken, corpus)]
    first = autoencoder.start(VAE_RECIPE, seed=1, device="cpu")
    rows = _vae_rows(first, corpus)
    begun = [next(rows).row()["loss"] for _ in range(3)]
    first.save(tmp_path / "state.safetensors", ORIGIN)
    second = autoencoder.start(VAE_RECIPE, seed=99, device="cpu")
    second.load(tmp_path / "state.safetensors", ORIGIN)
    assert second.step == 3
    assert begun + [row.row()["loss"] for row in _vae_rows(second, corpus)] == losses
    assert len(losses) == 6
    for name, value in unbroken.ema.items():
        assert torch.equal(value, second.ema[name]), name


def test_a_checkpoint_of_another_origin_is_not_continued(tmp_path: Path) -> None:
    def fresh() -> TrainingState:
        with torch.random.fork_rng(devices=[]):
            network = nn.Linear(2, 2)
        return TrainingState(network, torch.optim.AdamW(network.parameters()))

    path = tmp_path / "state.safetensors"
    assert steps_taken(path) == 0
    state = fresh()
    state.step = 7
    state.save(path, ORIGIN)
    assert steps_taken(path) == 7
    again = fresh()
    again.load(path, ORIGIN)
    assert again.step == 7
    other = fresh()
    with pytest.raises(TrainingError) as caught:
        other.load(path, {**ORIGIN, "autoencoder.lr": 2e-3, "new": 1})
    message = str(caught.value)
    assert str(path) in message
    assert "autoencoder.lr was 0.001 and is 0.002; new was not recorded and is 1" in message
    assert "seed" not in message
    assert other.step == 0


def test_a_digest_of_weights_sees_names_values_and_shapes() -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}
    same = {"b": torch.zeros(2), "a": torch.arange(6.0).reshape(3, 2).T.contiguous().T.reshape(2, 3)}
    others = (
        {**weights, "b": torch.tensor([0.0, 1e-7])},
        {"c": weights["a"], "b": weights["b"]},
        {**weights, "a": torch.arange(6.0)},
        {**weights, "b": torch.zeros(2, dtype=torch.int32)},
    )
    assert digest_weights(same) == digest_weights(weights)
    assert len({digest_weights(weights), *map(digest_weights, others)}) == 5


def test_a_log_is_cut_behind_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    cut_log(path, 3)
    assert path.read_text() == ""
    for step in range(1, 6):
        append_log(path, {"step": step})
    path.write_text(path.read_text() + '{"st')
    cut_log(path, 5)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": step} for step in range(1, 6)]
    cut_log(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_a_stopped_and_resumed_denoiser_equals_an_unbroken_one(latents: LatentCorpus, tmp_path: Path) -> None:
    def fresh(seed: int) -> TrainingState:
        return denoiser.start(UNET_RECIPE, latent_channels=4, text_width=384, seed=seed, device="cpu")

    def rows(state: TrainingState) -> Iterator[StepReport]:
        return denoiser.train(state, latents, UNET_RECIPE, seed=1, device="cpu", threads=1)

    unbroken = fresh(1)
    losses = [row.row()["loss"] for row in rows(unbroken)]
    first = fresh(1)
    begun = next(rows(first)).row()["loss"]
    first.save(tmp_path / "state.safetensors", ORIGIN)
    second = fresh(2)
    second.load(tmp_path / "state.safetensors", ORIGIN)
    assert [begun] + [row.row()["loss"] for row in rows(second)] == losses
    assert len(losses) == 4
    assert all(torch.equal(value, second.ema[name]) for name, value in unbroken.ema.items())


def _decoder_rows(vae: UnshuffleAutoencoder, state: TrainingState, corpus: Corpus) -> Iterator[StepReport]:
    unet = denoiser.start(UNET_RECIPE, latent_channels=4, text_width=384, seed=1, device="cpu").network
    assert isinstance(unet, UNet2DConditionModel)
    blank = MiniLMTextEncoder().embed([""])
    return decoder.train(state, vae, unet, blank, corpus, DECODER_RECIPE, seed=1, device="cpu", threads=2)


def test_a_stopped_and_resumed_decoder_equals_an_unbroken_one_and_the_encoder_stays(
    corpus: Corpus, tmp_path: Path
) -> None:
    def fresh() -> tuple[UnshuffleAutoencoder, TrainingState]:
        vae = autoencoder.start(VAE_RECIPE, seed=1, device="cpu").network
        assert isinstance(vae, UnshuffleAutoencoder)
        return vae, decoder.start(vae, DECODER_RECIPE)

    vae, unbroken = fresh()
    before = copy.deepcopy(vae.state_dict())
    losses = [row.row()["loss"] for row in _decoder_rows(vae, unbroken, corpus)]
    other, first = fresh()
    begun = next(_decoder_rows(other, first, corpus)).row()["loss"]
    first.save(tmp_path / "state.safetensors", ORIGIN)
    other, second = fresh()
    second.load(tmp_path / "state.safetensors", ORIGIN)
    assert [begun] + [row.row()["loss"] for row in _decoder_rows(other, second, corpus)] == losses
    assert len(losses) == 4
    assert all(torch.equal(value, second.ema[name]) for name, value in unbroken.ema.items())
    changed = {name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder"}


def test_the_perceptual_loss_is_a_sum_of_squared_distances_of_unit_vectors() -> None:
    network = open_network("lite0", size_px=32, device=torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2))
    assert float(perceptual_loss(network, x, x)) == 0.0
    wanted = 0.0
    for one, other in zip(network.maps(x, (1, 2, 3)), network.maps(y, (1, 2, 3)), strict=True):
        a, b = one.permute(0, 2, 3, 1).flatten(0, 2).numpy(), other.permute(0, 2, 3, 1).flatten(0, 2).numpy()
        cells = [2 - 2 * float(p @ q) / np.linalg.norm(p) / np.linalg.norm(q) for p, q in zip(a, b, strict=True)]
        wanted += float(np.mean(cells))
    assert float(perceptual_loss(network, x, y)) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0.1


def test_redrawing_from_hardly_any_noise_changes_hardly_anything() -> None:
    unet = denoiser.start(UNET_RECIPE, latent_channels=4, text_width=384, seed=1, device="cpu").network
    assert isinstance(unet, UNet2DConditionModel)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def distance(level: int) -> float:
        made = redrawn(
            unet.eval(),
            latents,
            level=level,
            steps=2,
            blank=MiniLMTextEncoder().embed([""]),
            schedule=NoiseSchedule.from_config(SCHEDULE, name="test"),
            generator=torch.Generator().manual_seed(1),
        )
        assert made.shape == latents.shape
        return float((made - latents).abs().mean())

    with torch.no_grad():
        assert distance(1) < 0.1 < 0.3 < distance(500)


def test_the_autoencoder_learns(corpus: Corpus) -> None:
    recipe = VAE_RECIPE.model_copy(update={"steps": 60, "batch_size": 4, "lr": 2e-3, "decay_steps": 20})
    state = autoencoder.start(recipe, seed=1, device="cpu")
    flat = np.repeat(np.arange(0, 250, 5, dtype=np.uint8), 72 * 72 * 3).reshape(50, 72, 72, 3)
    easy = Corpus((flat,), corpus.captions[:50], corpus.subjects[:50])
    probe = crops(easy, np.random.default_rng(9), count=8, size_px=32)

    def loss() -> float:
        with torch.no_grad():
            return float(reconstruction_loss(state.network(probe), probe, ssim_weight=0.0))

    before = loss()
    assert len(list(autoencoder.train(state, easy, recipe, seed=1, device="cpu", threads=1))) == 60
    assert loss() < 0.8 * before


def test_parts_of_a_batch_give_the_gradient_of_the_whole() -> None:
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    data = torch.randn(6, 5, generator=rng)
    whole = copy.deepcopy(network)
    whole(data).square().mean().backward()

    def loss_of(part_network: nn.Module, part: int) -> tuple[Tensor, int]:
        return part_network(data[2 * part : 2 * part + 2]).square().mean(), part

    replicas = Replicas(network, count=3)
    assert replicas.backward(loss_of) == [0, 1, 2]
    for found, wanted in zip(network.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(found.grad, wanted.grad, atol=1e-6)
    with torch.no_grad():
        network[0].weight.mul_(0.5)
    network.zero_grad()
    whole[0].weight.data.mul_(0.5)
    whole.zero_grad()
    whole(data).square().mean().backward()
    replicas.backward(loss_of)
    assert torch.allclose(network[2].weight.grad, whole[2].weight.grad, atol=1e-6)


def test_buffers_of_the_parts_are_averaged() -> None:
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.BatchNorm2d(2, affine=False, momentum=1.0), nn.Conv2d(2, 1, 1))
    replicas = Replicas(network, count=2)

    def loss_of(part_network: nn.Module, part: int) -> tuple[Tensor, None]:
        return part_network(torch.full((2, 2, 2, 2), float(part)) + torch.arange(2.0).reshape(2, 1, 1, 1)).mean(), None

    replicas.backward(loss_of)
    assert torch.allclose(network[0].running_mean, torch.full((2,), 1.0))


def test_reconstruction_loss_is_zero_for_equal_and_matches_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    x, y = (torch.from_numpy(rng.uniform(-1, 1, (1, 1, 9, 9)).astype(np.float32)) for _ in range(2))
    assert reconstruction_loss(x, x, ssim_weight=1.0).abs() < 1e-6
    scores = []
    for top in (0, 2):
        for left in (0, 2):
            a, b = x[0, 0, top : top + 7, left : left + 7].numpy(), y[0, 0, top : top + 7, left : left + 7].numpy()
            covariance = ((a - a.mean()) * (b - b.mean())).mean()
            scores.append(
                (2 * a.mean() * b.mean() + 0.0004)
                * (2 * covariance + 0.0036)
                / ((a.mean() ** 2 + b.mean() ** 2 + 0.0004) * (a.var() + b.var() + 0.0036))
            )
    wanted = float((x - y).abs().mean()) + 0.5 * (1 - float(np.mean(scores)))
    assert abs(float(reconstruction_loss(x, y, ssim_weight=0.5)) - wanted) < 1e-5


def test_crops_stay_in_range_and_depend_on_the_generator_alone(corpus: Corpus) -> None:
    first = crops(corpus, np.random.default_rng(5), count=6, size_px=32)
    assert first.shape == (6, 3, 32, 32)
    assert first.abs().max() <= 1.0
    assert torch.equal(first, crops(corpus, np.random.default_rng(5), count=6, size_px=32))


def test_captions_are_dropped_as_often_as_asked_and_otherwise_belong_to_the_picture(latents: LatentCorpus) -> None:
    blank = len(latents.text) - 1
    assert blank == 3
    batch = draw_batch(latents, np.random.default_rng(0), count=400, size=8, text_dropout=0.5)
    assert batch.latents.shape == (400, 4, 8, 8)
    assert 150 < (batch.rows == blank).sum() < 250
    always = draw_batch(latents, np.random.default_rng(0), count=400, size=8, text_dropout=0.0)
    rng, checked = np.random.default_rng(0), 0
    for row, window in zip(always.rows, always.latents, strict=True):
        index = int(rng.integers(20))
        y, x = rng.integers(0, 2, 2)
        rng.random()
        assert row == latents.caption_rows[index] == index % 3
        assert np.array_equal(window.numpy(), latents.latents(index)[:, y : y + 8, x : x + 8].astype(np.float32))
        checked += 1
    assert checked == 400


def test_only_the_easy_steps_weigh_less() -> None:
    schedule = NoiseSchedule.from_config({"prediction_type": "v_prediction"}, name="test")
    abar = schedule.abar.float()
    for at in (0, 400, 999):
        snr = float(abar[at] / (1 - abar[at]))
        wanted = 1.0 if snr <= 4.0 else 5.0 / (snr + 1)
        assert float(velocity_weight(abar[at : at + 1], gamma=5.0)) == pytest.approx(wanted, rel=1e-4)


def test_the_learning_rate_rises_holds_and_falls() -> None:
    schedule = StepSchedule(steps=100, decay_steps=20, peak=1.0, warmup_steps=10)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == 1.0
    assert rates[90] == pytest.approx(0.02 + 0.98 * 0.5)
    assert rates == [*sorted(rates[:10]), *rates[10:80], *sorted(rates[80:], reverse=True)]


def test_a_wrong_recipe_is_refused_with_every_error(tmp_path: Path, repository: Path) -> None:
    assert load_recipe(repository / "pretrain.yaml").autoencoder.latent_channels == 16
    text = (repository / "pretrain.yaml").read_text()
    wrong = text.replace("latent_channels: 16", "latent_channels: 2").replace("threads: 2", "threds: 2")
    assert wrong.count("threds") == 1
    (tmp_path / "pretrain.yaml").write_text(wrong)
    with pytest.raises(ParamsError) as caught:
        load_recipe(tmp_path / "pretrain.yaml")
    message = str(caught.value)
    assert all(word in message for word in ("3 error(s)", "autoencoder.latent_channels", "threds", "threads"))
    with pytest.raises(ParamsError, match="does not exist"):
        load_recipe(tmp_path / "other.yaml")
