"""The noise schedule against naive loops."""

import math

import pytest
import torch

from anosynth.diffusion.schedule import MIN_ABAR, NoiseSchedule
from anosynth.errors import BackboneError

CONFIG: dict[str, object] = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
}
PREDICTIONS = ("epsilon", "v_prediction")


def schedule(**changes: object) -> NoiseSchedule:
    return NoiseSchedule.from_config({**CONFIG, **changes}, name="scheduler_config.json")


def naive_abar() -> list[float]:
    """Stable Diffusion's schedule: square roots of beta are evenly spaced."""
    product, values = 1.0, []
    for step in range(1000):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * step / 999
        product *= 1.0 - root**2
        values.append(product)
    return values


def test_signal_power_is_the_product_of_one_minus_beta_whatever_the_scheduler_class() -> None:
    read = schedule()
    assert read.num_timesteps == 1000
    assert read.prediction == "epsilon"
    assert read.abar.tolist() == pytest.approx(naive_abar(), rel=1e-4)


def test_known_values_of_stable_diffusion_at_three_tenths() -> None:
    """sqrt(abar) = 0.768 and sqrt(1 - abar) = 0.640 at t = 300, signal-to-noise ratio 1.44."""
    alpha, sigma = schedule().levels(torch.tensor([300]), like=torch.zeros(1))
    assert alpha.item() == pytest.approx(0.768, abs=2e-3)
    assert sigma.item() == pytest.approx(0.640, abs=2e-3)
    assert (alpha / sigma).item() ** 2 == pytest.approx(1.44, abs=1e-2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_clean_latents_come_back_from_what_the_network_should_put_out(prediction: str) -> None:
    read, generator = schedule(prediction_type=prediction), torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 3, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    timesteps = torch.tensor([0, 10, 500, 999])
    noisy = read.add_noise(clean, noise, timesteps)
    back = read.clean(read.target(clean, noise, timesteps), noisy, timesteps)
    assert torch.allclose(back, clean, atol=1e-9)


def test_velocity_is_alpha_noise_minus_sigma_clean() -> None:
    read, abar = schedule(prediction_type="v_prediction"), naive_abar()
    clean, noise = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), 3.0)
    velocity = read.target(clean, noise, torch.tensor([7, 700])).flatten().tolist()
    wanted = [3.0 * math.sqrt(abar[t]) - 2.0 * math.sqrt(1.0 - abar[t]) for t in (7, 700)]
    assert velocity == pytest.approx(wanted, rel=1e-4)


def test_a_schedule_with_no_signal_left_at_the_end_stays_divisible() -> None:
    read = schedule(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert read.abar[-1].item() == MIN_ABAR


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_type": "sample"}, "prediction_type is 'sample'; allowed are epsilon, v_prediction"),
        ({"beta_schedule": "cubic"}, "scheduler_config.json: the noise schedule cannot be read"),
    ],
)
def test_a_schedule_we_cannot_follow_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        schedule(**changes)
