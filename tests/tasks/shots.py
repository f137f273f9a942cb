"""A tiny project whose real images are indexed and whose shots are chosen, without running the stage that chooses."""

from collections.abc import Callable
from pathlib import Path

from anosynth.layout import Layout
from anosynth.params import Params, load_params
from anosynth.samples import Shot
from anosynth.sources.index import read_records
from anosynth.sources.lock import ShotsLock, seal, write_lock
from tasks import index
from tasks._bind import bind, fill
from tests.toy import make_project

CATEGORY = "washer"


def arguments(run: Callable[..., None], params: Params, **keys: str) -> dict[str, object]:
    """Keyword arguments of a stage's run, but for layout and only."""
    return fill(bind(run), params, {"category": CATEGORY, **keys})


def with_shots(folder: Path) -> tuple[Layout, Params]:
    """Make the project; its shots are the first normal training images in the index."""
    layout = Layout(make_project(folder))
    params = load_params(layout.params())
    index.run(layout=layout, **arguments(index.run, params))  # type: ignore[arg-type]
    records = read_records(layout.index(CATEGORY))
    normal = [record for record in records if record.role == "train" and record.defect is None]
    chosen = tuple(Shot(one, rank, "normal") for rank, one in enumerate(normal[: params.select_shots.normal]))
    assert len(chosen) == params.select_shots.normal
    write_lock(ShotsLock(CATEGORY, "first_third", 0, chosen, {}, seal(records)), layout.shots(CATEGORY))
    return layout, params
