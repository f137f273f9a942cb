"""The solver against diffusers' schedulers, closed forms, and itself one sample at a time."""

from typing import Literal

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from torch import Tensor

from anosynth.diffusion.schedule import NoiseSchedule
from anosynth.diffusion.solver import Known, SamplerSettings, level_of, renoise, signal_and_noise, solve, step_table
from anosynth.diffusion.toy import SCHEDULE
from anosynth.params import Solver

SOLVERS: tuple[Solver, ...] = ("ddim", "dpm_solver", "plms")
TOP = 1000
BETAS = {key: SCHEDULE[key] for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return NoiseSchedule.from_config({**SCHEDULE, "prediction_type": request.param}, name="test")


@pytest.fixture(scope="module")
def plain() -> NoiseSchedule:
    return NoiseSchedule.from_config(SCHEDULE, name="test")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(latents: Tensor, timesteps: Tensor) -> Tensor:
    """Stands for a trained network: bounded, depends on place, value and time."""
    place = torch.linspace(-1.0, 1.0, latents[0].numel()).reshape(latents.shape[1:])
    return torch.tanh(latents + place * (timesteps.reshape(-1, 1, 1, 1) / 500.0))


def reference(
    solver: Solver, schedule: NoiseSchedule, steps: int
) -> DDIMScheduler | DPMSolverMultistepScheduler | PNDMScheduler:
    common = {**BETAS, "prediction_type": schedule.prediction, "timestep_spacing": "trailing"}
    if solver == "ddim":
        scheduler = DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True, steps_offset=1)
    elif solver == "plms":
        scheduler = PNDMScheduler(
            **{**common, "prediction_type": "epsilon"}, skip_prk_steps=True, set_alpha_to_one=True
        )
    else:
        scheduler = DPMSolverMultistepScheduler(**common, algorithm_type="dpmsolver++", final_sigmas_type="zero")
    scheduler.set_timesteps(steps)
    return scheduler


def said_noise(schedule: NoiseSchedule, latents: Tensor, timesteps: Tensor) -> Tensor:
    """The noise that the network's output stands for; PLMS extrapolates that, whatever the network puts out."""
    output = network(latents, timesteps)
    alpha, sigma = schedule.levels(timesteps, like=latents)
    return output if schedule.prediction == "epsilon" else alpha * output + sigma * latents


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 25, 100])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_full_path_is_that_of_diffusers(solver: Solver, steps: int, schedule: NoiseSchedule) -> None:
    if solver != "dpm_solver" and TOP % steps:
        steps += 1  # diffusers' DDIM and PNDM step back by T // steps, off their grids, where steps do not divide T
    start = noise(2, 3, 4, 4)
    scheduler, wanted, asked = reference(solver, schedule, steps), start.clone(), []
    for timestep in scheduler.timesteps:
        both = timestep.repeat(2)
        said = said_noise(schedule, wanted, both) if solver == "plms" else network(wanted, both)
        wanted = scheduler.step(said, timestep, wanted).prev_sample

    def model(latents: Tensor, timesteps: Tensor, _: Tensor) -> Tensor:
        asked.append(timesteps.tolist())
        return schedule.clean(network(latents, timesteps), latents, timesteps)

    settings = SamplerSettings(solver, steps)
    ours = solve(model, start, levels=[TOP, TOP], schedule=schedule, settings=settings)
    assert asked == [[int(timestep)] * 2 for timestep in scheduler.timesteps]
    assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def gaussian(schedule: NoiseSchedule, spread: float, latents: Tensor, timesteps: Tensor) -> Tensor:
    """The best estimate of z_0 if the data are N(0, spread^2): alpha spread^2 z / (alpha^2 spread^2 + sigma^2)."""
    alpha, sigma = schedule.levels(timesteps, like=latents)
    return alpha * spread**2 * latents / (alpha**2 * spread**2 + sigma**2)


def gaussian_error(solver: Solver, steps: int, schedule: NoiseSchedule) -> float:
    """Distance from where the exact path ends: spread z_T / sqrt(alpha_T^2 spread^2 + sigma_T^2)."""
    spread, start = 2.0, noise(1, 2, 8, 8).double()
    alpha, sigma = signal_and_noise([TOP], schedule)
    wanted = spread * start / (alpha**2 * spread**2 + sigma**2).sqrt()
    ours = solve(
        lambda latents, timesteps, _: gaussian(schedule, spread, latents, timesteps),
        start,
        levels=[TOP],
        schedule=schedule,
        settings=SamplerSettings(solver, steps),
    )
    return float((ours - wanted).abs().max() / wanted.abs().max())


def test_all_solvers_end_where_the_exact_path_of_gaussian_data_does_and_higher_orders_sooner(
    plain: NoiseSchedule,
) -> None:
    errors = {(solver, steps): gaussian_error(solver, steps, plain) for solver in SOLVERS for steps in (20, 100)}
    assert errors["ddim", 100] < 0.3 * errors["ddim", 20] < 0.02
    assert errors["dpm_solver", 20] < 0.2 * errors["ddim", 20]
    assert errors["dpm_solver", 100] < 0.2 * errors["ddim", 100]
    assert errors["plms", 100] < 0.2 * errors["ddim", 100]


@pytest.mark.parametrize("solver", SOLVERS)
def test_if_the_clean_latents_are_known_every_path_ends_at_them(solver: Solver, plain: NoiseSchedule) -> None:
    truth = noise(3, 2, 4, 4, seed=1)
    ended = solve(
        lambda _latents, _timesteps, rows: truth[rows],
        noise(3, 2, 4, 4),
        levels=[TOP, 400, 1],
        schedule=plain,
        settings=SamplerSettings(solver, 7),
    )
    if solver == "plms":  # it goes by the noise, which is computed
        assert torch.allclose(ended, truth, atol=1e-4)
    else:
        assert torch.equal(ended, truth)


@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_of_one_batch_may_start_at_different_levels(solver: Solver, plain: NoiseSchedule) -> None:
    levels, settings = [300, TOP, 0, 50, 700], SamplerSettings(solver, 10)
    start, calls = noise(5, 3, 4, 4), []

    def model(latents: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        calls.append(rows.tolist())
        return plain.clean(network(latents, timesteps) * (1.0 + rows.reshape(-1, 1, 1, 1)), latents, timesteps)

    together = solve(model, start, levels=levels, schedule=plain, settings=settings)
    if solver == "plms":  # one more for every sample that takes more than one step
        assert [len(rows) for rows in calls] == [1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4]
    else:
        assert [len(rows) for rows in calls] == [1, 1, 1, 2, 2, 2, 2, 3, 3, 4]
    assert calls[-1] == [1, 4, 0, 3]
    assert torch.equal(together[2], start[2])
    checked = 0
    for index, level in enumerate(levels):

        def alone(latents: Tensor, timesteps: Tensor, rows: Tensor, index: int = index) -> Tensor:
            return model(latents, timesteps, rows + index)

        single = solve(alone, start[index : index + 1], levels=[level], schedule=plain, settings=settings)
        assert torch.allclose(together[index], single[0], rtol=1e-5, atol=1e-5)
        checked += 1
    assert checked == 5


@pytest.mark.parametrize(
    ("level", "steps", "path"),
    [
        (1000, 4, [999, 749, 499, 249]),
        (300, 10, [299, 199, 99]),
        (20, 10, [19]),
        (2, 1000, [1, 0]),
        (0, 10, []),
    ],
)
def test_a_start_takes_its_share_of_the_steps(level: int, steps: int, path: list[int], plain: NoiseSchedule) -> None:
    table = step_table(plain, [level], SamplerSettings("ddim", steps))
    assert table.timesteps[:, 0].tolist() == path
    assert table.counts == (len(path),)


@pytest.mark.parametrize("solver", SOLVERS)
def test_known_parts_of_a_picture_are_kept_exactly(solver: Solver, plain: NoiseSchedule) -> None:
    picture, redraw = noise(2, 3, 4, 4, seed=2), torch.zeros(2, 1, 4, 4)
    redraw[:, :, 1:3, 1:3] = 1.0
    seen = []

    def model(latents: Tensor, timesteps: Tensor, _: Tensor) -> Tensor:
        seen.append((latents.clone(), timesteps.clone()))
        return plain.clean(network(latents, timesteps), latents, timesteps)

    eps = noise(2, 3, 4, 4, seed=3)
    start = renoise(picture, levels=[TOP, TOP], noise=eps, schedule=plain)
    known = Known(picture, eps, redraw)
    drawn = solve(model, start, levels=[TOP, TOP], schedule=plain, settings=SamplerSettings(solver, 5), known=known)
    kept = (redraw == 0.0).expand_as(picture)
    assert torch.equal(drawn[kept], picture[kept])
    assert not torch.allclose(drawn[~kept], picture[~kept], atol=0.05)
    assert len(seen) == 5 + (solver == "plms")
    for latents, timesteps in seen:
        assert torch.allclose(latents[kept], plain.add_noise(picture, eps, timesteps)[kept], atol=1e-6)


def test_renoising_by_nothing_returns_the_input_and_by_everything_forgets_it(plain: NoiseSchedule) -> None:
    latents, eps = noise(3, 2, 2, 2), noise(3, 2, 2, 2, seed=5)
    mixed = renoise(latents, levels=[0, 300, TOP], noise=eps, schedule=plain)
    assert torch.equal(mixed[0], latents[0])
    abar = float(plain.abar[299])
    assert torch.allclose(mixed[1], abar**0.5 * latents[1] + (1.0 - abar) ** 0.5 * eps[1], atol=1e-6)
    assert (mixed[2] - eps[2]).abs().max() < 0.25


def test_a_strength_is_a_share_of_all_levels(plain: NoiseSchedule) -> None:
    assert [level_of(strength, plain) for strength in (0.0, 0.0004, 0.3, 1.0)] == [0, 0, 300, TOP]
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="it is a share of T and must lie in"):
            level_of(wrong, plain)


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("guidance", -1.0)])
def test_settings_that_draw_nothing_are_refused(field: Literal["steps", "guidance"], value: float) -> None:
    with pytest.raises(ValueError, match=r"steps is .* guidance is"):
        SamplerSettings(**{"solver": "ddim", "steps": 4, field: value})  # type: ignore[arg-type]


def test_a_level_above_the_top_is_refused(plain: NoiseSchedule) -> None:
    with pytest.raises(ValueError, match=r"level is 1001; it must lie in \[0, 1000\]"):
        step_table(plain, [1001], SamplerSettings("ddim", 4))
