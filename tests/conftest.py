"""What holds for every test: no network, one thread, and no draw from a global generator."""

from __future__ import annotations

import os

# Before any heavy import, and inherited by every process that a test starts.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    DO_NOT_TRACK="1",
    DVC_NO_ANALYTICS="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)

import random
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.toy import make_project

PIPELINE = "tests/pipeline/"

settings.register_profile("anosynth", deadline=None)  # no test asserts a time
settings.load_profile("anosynth")


def global_generators() -> dict[str, object]:
    """States of the global generators of random, NumPy and, where it was imported, torch."""
    _, words, position, *_ = np.random.get_state()  # noqa: NPY002
    assert isinstance(words, np.ndarray)
    states: dict[str, object] = {"random": random.getstate(), "numpy.random": (words.tobytes(), position)}
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].get_rng_state().numpy().tobytes()
    return states


def drawn_since(before: Mapping[str, object]) -> list[str]:
    """Names of the global generators whose state is not what it was."""
    after = global_generators()
    return [name for name, state in before.items() if after[name] != state]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the long pipelines first, and files whose tests start Prefect in this process last.

    Prefect's threads outlive a test, and draw when they like.
    """
    last = {item.path for item in items if _starts_prefect(item)}
    items.sort(key=lambda item: (item.path in last, item.path.parent.name != "pipeline"))


class FilesTogether(LoadScopeScheduling):
    """Gives a worker whole files, and one of them all of tests/pipeline, which shares two runs of the pipeline."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return PIPELINE if path.startswith(PIPELINE) else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesTogether:
    """Deal the tests of `pytest --numprocesses N --dist loadfile` by FilesTogether."""
    return FilesTogether(config, log)


def _starts_prefect(item: pytest.Item) -> bool:
    return "prefect_server" in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test on one torch thread; fail it if it drew from a global generator, which other tests would move."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    before = global_generators()
    result = yield
    if _starts_prefect(item):
        before.pop("random")  # Prefect names runs and spreads its retries with it
    if drawn := drawn_since(before):
        pytest.fail(f"the test drew from the global generator of {', '.join(drawn)}", pytrace=False)
    return result


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that the tests belong to."""
    return Path(__file__).parent.parent


@pytest.fixture
def toy_project(tmp_path: Path) -> Path:
    """A folder with the tiny params.yaml of tests/toy: enough for stages that are called in process."""
    return make_project(tmp_path / "project")
