"""The training loop: AdamW as published, resumable to the bit, never saving what is not finite."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anosynth.diffusion.loop import CLIP_NORM, WEIGHT_DECAY, HeldOut, LoopSettings, TrainResult, run_steps
from anosynth.errors import TrainingError
from anosynth.shards.store import ShardStore

SETTINGS = LoopSettings(steps=12, lr=0.05, checkpoint_every=4, log_every=3)
KEY = "test/run.checkpoint"


class PowerCutError(Exception):
    pass


def parameters() -> dict[str, nn.Parameter]:
    """Several: a checkpoint gives its tensors back in any order."""
    generator, shapes = torch.Generator().manual_seed(5), {"a": (3, 2), "b": (4,), "c": (2, 2), "d": (3,), "e": (1, 5)}
    found = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    kernel = torch.randn((2, 3, 2, 2), generator=generator)  # of a convolution, as one lies in memory
    return {**found, "f": nn.Parameter(kernel.to(memory_format=torch.channels_last))}


def noisy_squares(given: dict[str, nn.Parameter], step: int) -> Tensor:
    """A loss that depends on step and parameters alone."""
    generator = torch.Generator().manual_seed(step)
    return sum(  # type: ignore[return-value]
        (value - 3.0 * torch.randn(value.shape, generator=generator)).square().sum() for value in given.values()
    )


def run(
    store: ShardStore,
    given: dict[str, nn.Parameter],
    *,
    cut_at: int | None = None,
    settings: LoopSettings = SETTINGS,
) -> TrainResult:
    def step_loss(step: int) -> Tensor:
        if step == cut_at:
            raise PowerCutError
        return noisy_squares(given, step)

    return run_steps(
        step_loss, given, settings, accelerator=Accelerator(cpu=True), checkpoints=store, key=KEY, doing="squares"
    )


@pytest.mark.parametrize("falling", [False, True])
def test_steps_are_those_of_adamw_with_clipped_gradients(tmp_path: Path, *, falling: bool) -> None:
    """Loshchilov and Hutter 2019, written out: decay, two moments, bias correction."""
    given, plain = parameters(), {name: value.detach().double() for name, value in parameters().items()}
    losses = run(ShardStore(tmp_path), given, settings=replace(SETTINGS, falling=falling)).losses
    first = {name: torch.zeros_like(value) for name, value in plain.items()}
    second = {name: torch.zeros_like(value) for name, value in plain.items()}
    for step in range(SETTINGS.steps):
        lr = SETTINGS.lr * (1.0 - step / SETTINGS.steps) if falling else SETTINGS.lr
        leaves = {name: nn.Parameter(value.float()) for name, value in plain.items()}
        loss = noisy_squares(leaves, step)
        assert float(losses[step]) == pytest.approx(loss.item(), rel=1e-4)
        loss.backward()
        norm = math.sqrt(sum(float(leaf.grad.square().sum()) for leaf in leaves.values()))  # type: ignore[union-attr]
        for name, leaf in leaves.items():
            assert leaf.grad is not None
            gradient = leaf.grad.double() * min(1.0, CLIP_NORM / norm)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            scaled = first[name] / (1 - 0.9 ** (step + 1))
            spread = (second[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            plain[name] = plain[name] * (1 - lr * WEIGHT_DECAY) - lr * scaled / spread
    for name, value in given.items():
        assert torch.allclose(value.detach(), plain[name].float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cuts", [(5,), (4,), (11,), (1, 6, 6, 10)])
def test_a_run_that_was_cut_ends_with_the_same_bits(cuts: tuple[int, ...], tmp_path: Path) -> None:
    unbroken = parameters()
    whole = run(ShardStore(tmp_path / "unbroken"), unbroken)
    store = ShardStore(tmp_path / "cut")
    for cut_at in cuts:
        with pytest.raises(PowerCutError):
            run(store, parameters(), cut_at=cut_at)
    resumed = parameters()
    result = run(store, resumed)
    assert (whole.resumed_from, result.resumed_from) == (0, cuts[-1] // 4 * 4)
    assert result.losses.tobytes() == whole.losses.tobytes()
    for name, value in resumed.items():
        assert torch.equal(value, unbroken[name])


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    store, first, second = ShardStore(tmp_path), parameters(), parameters()
    whole = run(store, first)
    again = run(store, second, cut_at=0)
    assert again.resumed_from == SETTINGS.steps
    assert again.losses.tobytes() == whole.losses.tobytes()
    assert torch.equal(first["a"], second["a"])


@pytest.mark.parametrize(("bad_step", "kept_step"), [(2, None), (4, 4), (10, 8), (11, 8)])
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_last_checkpoint(
    bad_step: int, kept_step: int | None, tmp_path: Path
) -> None:
    store, given = ShardStore(tmp_path), parameters()

    def step_loss(step: int) -> Tensor:
        return noisy_squares(given, step) * (math.inf if step == bad_step else 1.0)

    with pytest.raises(
        TrainingError, match=f"squares: the loss of step {bad_step} or its gradient is not finite"
    ) as error:
        run_steps(
            step_loss, given, SETTINGS, accelerator=Accelerator(cpu=True), checkpoints=store, key=KEY, doing="squares"
        )
    assert "\n" not in str(error.value)
    fresh = parameters()
    if kept_step is None:
        assert store.get_blob(KEY) is None
    else:
        assert run(store, fresh).resumed_from == kept_step
        assert all(torch.isfinite(value).all() for value in fresh.values())


def test_a_gradient_that_is_not_finite_is_found_though_the_loss_is(tmp_path: Path) -> None:
    """The square root of zero has a finite value and an infinite slope."""
    given = {"a": nn.Parameter(torch.zeros(2))}
    with pytest.raises(TrainingError, match="the loss of step 0 or its gradient is not finite"):
        run_steps(
            lambda _: given["a"].abs().sum().sqrt(),
            given,
            LoopSettings(steps=1, lr=0.1, checkpoint_every=1, log_every=1),
            accelerator=Accelerator(cpu=True),
            checkpoints=ShardStore(tmp_path),
            key=KEY,
            doing="root",
        )
    assert ShardStore(tmp_path).get_blob(KEY) is None


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    run(store, parameters())
    with pytest.raises(TrainingError, match="the stored checkpoint has other parameters"):
        run(store, {"a": parameters()["a"]})


def test_each_logged_step_is_one_json_object_with_the_mean_loss_since_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="anosynth.diffusion.loop"):
        losses = run(ShardStore(tmp_path), parameters()).losses
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "anosynth.diffusion.loop"]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    for line in lines:
        assert set(line) == {"training", "step", "steps", "loss", "gradient_norm"}
        assert line["loss"] == pytest.approx(float(losses[line["step"] - 3 : line["step"]].mean()), rel=1e-5)


SCHEDULE = LoopSettings(steps=200, lr=0.1, checkpoint_every=7, log_every=50)


def towards_ten(
    store: ShardStore, *, patience: int = 2, cut_at: int | None = None, steps: int = 200, judged: bool = True
) -> tuple[TrainResult, float]:
    """Training pulls a number from 0 to 10; what is held out is best at 3."""
    number = nn.Parameter(torch.zeros(1))

    def step_loss(step: int) -> Tensor:
        if step == cut_at:
            raise PowerCutError
        return (number - 10.0).square().sum()

    result = run_steps(
        step_loss,
        {"number": number},
        replace(SCHEDULE, steps=steps),
        accelerator=Accelerator(cpu=True),
        checkpoints=store,
        key=KEY,
        doing="a number",
        held_out=HeldOut(lambda: (number - 3.0).square().sum(), 5, patience) if judged else None,
    )
    return result, number.item()


def test_training_ends_when_the_held_out_loss_has_stopped_falling_and_the_best_step_is_put_back(tmp_path: Path) -> None:
    looks = [towards_ten(ShardStore(tmp_path / str(n)), steps=n, judged=False)[1] for n in range(5, 60, 5)]
    losses = [(number - 3.0) ** 2 for number in looks]
    best = losses.index(min(losses))
    assert 0 < best < len(looks) - 3
    result, number = towards_ten(ShardStore(tmp_path / "judged"))
    assert (result.best_step, number) == (5 * (best + 1), looks[best])
    assert result.held_out_loss == pytest.approx(losses[best], rel=1e-5)
    assert len(result.losses) == result.best_step + 2 * 5
    more, same = towards_ten(ShardStore(tmp_path / "patient"), patience=4)
    assert (len(more.losses), same) == (result.best_step + 4 * 5, number)


@pytest.mark.parametrize("cut_at", [8, 31, 38])
def test_a_killed_run_with_held_out_data_ends_at_the_same_step_with_the_same_bits(tmp_path: Path, cut_at: int) -> None:
    wanted, number = towards_ten(ShardStore(tmp_path / "whole"))
    assert cut_at < len(wanted.losses)
    store = ShardStore(tmp_path / "cut")
    with pytest.raises(PowerCutError):
        towards_ten(store, cut_at=cut_at)
    again, same = towards_ten(store)
    assert again.resumed_from == cut_at // 7 * 7
    assert (again.best_step, again.held_out_loss, same) == (wanted.best_step, wanted.held_out_loss, number)
    assert again.losses.tolist() == wanted.losses.tolist()
    third, same = towards_ten(store, cut_at=0)
    assert (third.best_step, same, len(third.losses)) == (wanted.best_step, number, len(wanted.losses))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_held_out_loss_that_is_not_finite_is_no_miss_and_spares_the_last_checkpoint(
    tmp_path: Path, value: float
) -> None:
    number, looks, store = nn.Parameter(torch.zeros(1)), [], ShardStore(tmp_path)

    def held_out_loss() -> Tensor:
        looks.append(number.item())
        return number.sum() * (1.0 if len(looks) < 3 else value)

    with pytest.raises(TrainingError, match="a number: the held-out loss after 15 steps is not finite") as error:
        run_steps(
            lambda _: (number + 10.0).square().sum(),
            {"number": number},
            SCHEDULE,
            accelerator=Accelerator(cpu=True),
            checkpoints=store,
            key=KEY,
            doing="a number",
            held_out=HeldOut(held_out_loss, 5, 2),
        )
    assert "\n" not in str(error.value)
    assert len(looks) == 3
    kept, _ = towards_ten(store)
    assert kept.resumed_from == 14


def test_a_step_that_is_not_finite_is_named_before_the_look_that_follows_it(tmp_path: Path) -> None:
    number = nn.Parameter(torch.zeros(1))
    with pytest.raises(TrainingError, match="a number: the loss of step 3 or its gradient is not finite"):
        run_steps(
            lambda step: number.sum() * (math.inf if step == 3 else 1.0),
            {"number": number},
            SCHEDULE,
            accelerator=Accelerator(cpu=True),
            checkpoints=ShardStore(tmp_path),
            key=KEY,
            doing="a number",
            held_out=HeldOut(lambda: number.sum(), 5, 2),
        )


def test_a_run_too_short_to_look_is_taken_whole(tmp_path: Path) -> None:
    result, _ = towards_ten(ShardStore(tmp_path), steps=4)
    assert (result.best_step, result.held_out_loss, len(result.losses)) == (4, None, 4)
