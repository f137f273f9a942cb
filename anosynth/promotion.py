"""The gate: a data set version is called helpful only if its gain on validation images is above zero beyond doubt.

Validation images are real ones that no generator, gate or detector has seen and that are not the test. The gain is the
paired difference between the arm that has the data and the base arm that has not, over the same images and seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from anosynth.comparison import ArmComparison, Bounded, arms_in_order, compare
from anosynth.errors import ParamsError
from anosynth.layout import Layout
from anosynth.params import Params, PromoteParams
from anosynth.results import LEFT_OUT_FILE, RESULT_FILE, VALIDATION_FOLDER, Result, read_left_out, read_result

VERSION = 1
Decision = Literal["helpful", "no gain shown", "insufficient data"]


@dataclass(frozen=True)
class Promotion:
    """What the gate says about one arm.

    Attributes:
        category, detector, arm, baseline, metric: what was compared.
        decision: the answer.
        reason: why, one sentence.
        gain: paired gain on the validation images with its interval, which holds for all arms of the detector at once;
            None where there was too little to measure.
        confidence: of that interval.
        num_groups, num_anomalous, num_seeds: what it rests on.
        data: digests of what the arm was trained on: the version that the answer is about.
        licence: the most restrictive licence of that data.
    """

    category: str
    detector: str
    arm: str
    baseline: str
    metric: str
    decision: Decision
    reason: str
    gain: Bounded | None
    confidence: float
    num_groups: int
    num_anomalous: int
    num_seeds: int
    data: Mapping[str, str]
    licence: str


def decide(compared: ArmComparison, trained_on: Result, *, params: PromoteParams) -> Promotion:
    """Judge one arm by its comparison on the validation images.

    Args:
        compared: the arm against the base arm, on validation images.
        trained_on: the result that says what the arm was trained on.
        params: section `promote` of params.yaml.
    """
    gain = compared.guarded.get(params.metric, Bounded(None, None, None))
    decision, reason = _decide(compared, gain, params)
    data = trained_on.trained_on[compared.arm]
    return Promotion(
        category=compared.category,
        detector=compared.detector,
        arm=compared.arm,
        baseline=params.baseline,
        metric=params.metric,
        decision=decision,
        reason=reason,
        gain=None if decision == "insufficient data" else gain,
        confidence=params.confidence,
        num_groups=compared.num_groups,
        num_anomalous=compared.num_anomalous,
        num_seeds=compared.num_seeds,
        data=dict(data.digests),
        licence=data.licence,
    )


def _decide(compared: ArmComparison, gain: Bounded, params: PromoteParams) -> tuple[Decision, str]:
    if compared.num_groups < params.min_groups:
        return "insufficient data", (
            f"the validation images are of {compared.num_groups} groups; at least {params.min_groups} are needed"
        )
    if compared.num_anomalous < params.min_anomalous:
        return "insufficient data", (
            f"{compared.num_anomalous} validation images are anomalous; at least {params.min_anomalous} are needed"
        )
    if gain.value is None:
        return "insufficient data", f"{params.metric} is undefined on the validation images"
    if gain.low is None:
        if gain.value == 0.0:
            return "no gain shown", "the arm is exactly as good as the base arm"
        return "insufficient data", (
            f"no interval of {params.metric} can be given: it does not vary between groups, or needs a single one"
        )
    arms = "1 arm" if compared.num_compared == 1 else f"{compared.num_compared} arms"
    asked = f"{100 * params.confidence:g} % interval over {arms}"
    if gain.low > 0.0:
        return "helpful", f"the whole {asked} of the gain lies above zero: {gain.text(signed=True)}"
    if gain.high is not None and gain.high < 0.0:
        return "no gain shown", f"the data does harm: the whole {asked} lies below zero: {gain.text(signed=True)}"
    return "no gain shown", f"the {asked} of the gain holds zero: {gain.text(signed=True)}"


def decisions(layout: Layout, category: str, detector: str, *, params: PromoteParams) -> tuple[Promotion, ...]:
    """Judge every arm but the base arm of one detector on one category; nothing if there is no base arm.

    Raises:
        DataError: if the detector was not evaluated.
    """
    folder = layout.evaluation(category, detector)
    test = read_result(folder / RESULT_FILE)
    if params.baseline not in test.metrics:
        return ()
    if not (folder / VALIDATION_FOLDER).is_dir():
        nothing = "there are no validation images of both kinds; give split.val_ratio, and data that can spare them"
        return tuple(
            Promotion(
                category=category,
                detector=detector,
                arm=arm,
                baseline=params.baseline,
                metric=params.metric,
                decision="insufficient data",
                reason=nothing,
                gain=None,
                confidence=params.confidence,
                num_groups=0,
                num_anomalous=0,
                num_seeds=len(test.metrics[arm]),
                data=dict(test.trained_on[arm].digests),
                licence=test.trained_on[arm].licence,
            )
            for arm in arms_in_order(test)
            if arm != params.baseline
        )
    result = read_result(folder / VALIDATION_FOLDER / RESULT_FILE)
    left_out = read_left_out(folder / VALIDATION_FOLDER / LEFT_OUT_FILE)
    compared = compare(result, left_out, baseline=params.baseline, confidence=params.confidence)
    return tuple(decide(one, result, params=params) for one in compared if one.arm != params.baseline)


def promote(
    layout: Layout, params: Params, *, category: str | None = None, detector: str | None = None, arm: str | None = None
) -> Iterator[Promotion]:
    """Judge all arms, or those that are named, and write each answer to its place in results/promote.

    Raises:
        ParamsError: if nothing fits the names.
        DataError: if a detector was not evaluated.
    """
    count = 0
    for one_category in params.grid.categories:
        for one_detector in params.grid.detectors:
            if (category or one_category, detector or one_detector) != (one_category, one_detector):
                continue
            for found in decisions(layout, one_category, one_detector, params=params.promote):
                if arm in (None, found.arm):
                    count += 1
                    _write(layout.promotion(found.category, found.detector, found.arm), found)
                    yield found
    if not count:
        raise ParamsError(
            f"no arm to judge: category {category or 'any'}, detector {detector or 'any'}, arm {arm or 'any'}; there "
            f"are {', '.join(params.grid.categories)}; {', '.join(params.grid.detectors)}; every arm of a detector but "
            f"{params.promote.baseline!r}, which it must have (promote.baseline)"
        )


def promotion_to_json(promotion: Promotion) -> dict[str, object]:
    """Return a decision as JSON values with its version."""
    return {"version": VERSION, **asdict(promotion)}


def _write(path: Path, promotion: Promotion) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    text = json.dumps(promotion_to_json(promotion), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
