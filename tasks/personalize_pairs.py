"""Learn what a method needs of one defect type: for dualanodiff an adapter, for the control arms nothing."""

from __future__ import annotations

from typing import assert_never

from anosynth.layout import Layout
from anosynth.params import (
    BackboneSpec,
    ComputeParams,
    CutPasteMethod,
    DualAnoDiffMethod,
    ImageParams,
    MethodSpec,
    ObjectParams,
    PerlinMethod,
)
from anosynth.sources.lock import open_shots
from tasks._bind import main
from tasks._outputs import whole_folder, write_json


def run(
    *,
    layout: Layout,
    category: str,
    defect: str,
    method: str,
    seed: int,
    compute: ComputeParams,
    image: ImageParams,
    objects: dict[str, ObjectParams],
    backbone: BackboneSpec,
    method_spec: MethodSpec,
) -> None:
    """Write models/pairs/<category>/<defect>/<method>; an adapter that the store already holds is copied from there."""
    folder = layout.pair_adapter(category, defect, method)
    match method_spec:
        case PerlinMethod() | CutPasteMethod():
            with whole_folder(layout, folder) as fresh:
                write_json(fresh / "adapter.json", {"kind": method_spec.kind, "trained": False})
            said = "learns nothing"
        case DualAnoDiffMethod():
            from tasks import _dual_train

            shots = open_shots(layout.shots(category), layout.index(category))
            said = _dual_train.train(
                layout,
                shots,
                sorted(shots.lock.anomalous) if method_spec.shared else [defect],
                method_spec,
                folder,
                seed=seed,
                compute=compute,
                image=image,
                described=objects[category],
                backbone=backbone,
            )
        case _:
            assert_never(method_spec)
    print(f"personalize_pairs: {method} of {category} with {defect}: {said}, in {folder}")


if __name__ == "__main__":
    main(run)
