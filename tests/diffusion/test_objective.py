"""The training objective against naive loops."""

import pytest
import torch

from anosynth.diffusion.objective import denoising_loss, min_snr_weights, with_defect, with_prior
from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.toy import SCHEDULE


def tensors(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator), torch.randn(*shape, generator=generator)


def test_the_loss_is_the_mean_squared_error_of_each_sample_weighted_and_averaged() -> None:
    prediction, target = tensors(3, 2, 4, 5)
    weights = [0.5, 2.0, 1.0]
    total = 0.0
    for sample in range(3):
        squares = 0.0
        for channel in range(2):
            for row in range(4):
                for column in range(5):
                    squares += (
                        float(prediction[sample, channel, row, column] - target[sample, channel, row, column]) ** 2
                    )
        total += weights[sample] * squares / 40
    assert denoising_loss(prediction, target, weights=torch.tensor(weights)).item() == pytest.approx(
        total / 3, rel=1e-5
    )
    assert denoising_loss(prediction, target).item() == pytest.approx(
        torch.nn.functional.mse_loss(prediction, target).item(), rel=1e-6
    )
    assert denoising_loss(prediction.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weighs_the_error_in_the_clean_latents_by_the_capped_ratio(prediction: str) -> None:
    """Through the clean latents: an output error e is a clean error of e sigma/alpha (noise) or e sigma (velocity)."""
    schedule = NoiseSchedule.from_config({**SCHEDULE, "prediction_type": prediction}, name="test")
    timesteps = torch.tensor([0, 200, 500, 999])
    found = min_snr_weights(schedule, timesteps, gamma=5.0)
    for index, timestep in enumerate(timesteps.tolist()):
        abar = float(schedule.abar[timestep])
        ratio = abar / (1.0 - abar)
        clean_error = (1.0 - abar) / abar if prediction == "epsilon" else 1.0 - abar
        assert float(found[index]) == pytest.approx(min(ratio, 5.0) * clean_error, rel=1e-9)
    if prediction == "epsilon":
        assert found[0] < 0.01
        assert found[-1] == 1.0


def test_the_prior_counts_by_its_weight() -> None:
    shots, prior = torch.tensor(2.0), torch.tensor(3.0)
    assert with_prior(shots, prior, weight=0.5).item() == 3.5
    assert with_prior(shots, prior, weight=0.0).item() == 2.0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_with_the_noise_that_holds_the_defect_the_clean_latents_are_found_in_the_spoiled_ones(prediction: str) -> None:
    schedule = NoiseSchedule.from_config({**SCHEDULE, "prediction_type": prediction}, name="test")
    clean, noise = tensors(3, 2, 4, 4)
    defect = torch.zeros_like(clean)
    defect[:2, :, 1:3, 1:3] = 1.5
    timesteps = torch.tensor([50, 300, 300])
    holding = with_defect(schedule, noise, defect=defect, timesteps=timesteps)
    assert torch.equal(holding[2], noise[2])
    spoiled = schedule.add_noise(clean + defect, noise, timesteps)
    assert torch.allclose(schedule.add_noise(clean, holding, timesteps), spoiled, atol=1e-5)
    found = schedule.clean(schedule.target(clean, holding, timesteps), spoiled, timesteps)
    assert torch.allclose(found, clean, atol=1e-4)
