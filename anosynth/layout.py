"""Where every artefact lies: one method per path, relative to one root. Nobody else joins path strings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STORE_FOLDER = ".anosynth"


@dataclass(frozen=True)
class Layout:
    """The project's folders.

    Attributes:
        root: project folder, the one with params.yaml and dvc.yaml.
        store: fsspec URL or local path of the fingerprint store; "" means `<root>/.anosynth/store`.
            It is not part of any result, so it is no parameter: a command-line option or ANOSYNTH_STORE names it.
    """

    root: Path
    store: str = ""

    def params(self) -> Path:
        """params.yaml."""
        return self.root / "params.yaml"

    def params_check(self) -> Path:
        """Note that params.yaml was validated; the first output of the graph."""
        return self.root / "data" / "check_params.txt"

    def store_url(self) -> str:
        """fsspec URL or path of the fingerprint store (shards, adapters' checkpoints)."""
        return self.store or str(self.root / STORE_FOLDER / "store")

    def pretrain_recipe(self) -> Path:
        """pretrain.yaml, the recipe of the embedded backbone; outside the default graph."""
        return self.root / "pretrain.yaml"

    def pretraining(self) -> Path:
        """Corpus, checkpoints, logs and exports of the embedded backbone's training; never in git."""
        return self.root / STORE_FOLDER / "pretrain"

    def projection(self) -> Path:
        """Trained map from patches to text (tasks.train_projection); outside the default graph."""
        return self.root / "models" / "projection.safetensors"

    def index(self, category: str) -> Path:
        """Record table of one category, with the real images' bytes (Parquet)."""
        return self.root / "data" / "index" / f"{category}.parquet"

    def shots(self, category: str) -> Path:
        """Lock file of the chosen shots and of everything they must never meet."""
        return self.root / "data" / "shots" / category / "shots.lock.json"

    def normal_adapter(self, category: str) -> Path:
        """Folder of the anomaly-free generator's adapter."""
        return self.root / "models" / "normal" / category

    def pair_adapter(self, category: str, defect: str, method: str) -> Path:
        """Folder of what a method learned of a defect; of a method that learns nothing, a note that says so."""
        return self.root / "models" / "pairs" / category / defect / method

    def normals(self, category: str) -> Path:
        """Folder of the sealed normal pool."""
        return self.root / "data" / "normals" / category

    def round_trips(self, category: str) -> Path:
        """Folder of the sealed pool of normal shots that went through the generator."""
        return self.root / "data" / "round_trips" / category

    def pairs(self, category: str, defect: str, method: str) -> Path:
        """Folder of one sealed pool of pairs."""
        return self.root / "data" / "pairs" / category / defect / method

    def verdicts(self, category: str) -> Path:
        """Verdict rows of all pools of one category (Parquet)."""
        return self.root / "data" / "verdicts" / f"{category}.parquet"

    def detector(self, category: str, detector: str) -> Path:
        """Folder of one detector, fitted on every arm and seed."""
        return self.root / "models" / "detectors" / category / detector

    def evaluation(self, category: str, detector: str) -> Path:
        """Folder of metrics and scores of one detector on the real test images."""
        return self.root / "results" / "evaluate" / category / detector

    def classification(self, category: str) -> Path:
        """Folder of the defect-type classifiers of one category and what they earned."""
        return self.root / "results" / "classify" / category

    def measures(self, category: str) -> Path:
        """How real and how varied the pools of one category are."""
        return self.root / "results" / "measure" / f"{category}.json"

    def shortcuts(self, category: str) -> Path:
        """Whether detectors tell real normals of one category from their round trips."""
        return self.root / "results" / "shortcut" / f"{category}.json"

    def promotion(self, category: str, detector: str, arm: str) -> Path:
        """What the gate said about one arm; written by `python -m anosynth promote`, no output of a stage."""
        return self.root / "results" / "promote" / category / detector / f"{arm}.json"

    def report(self) -> Path:
        """Folder of the report: report.html, report.md, report.json, plots."""
        return self.root / "results" / "report"
