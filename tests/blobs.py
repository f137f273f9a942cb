"""A store of checkpoints for tests of training: it can stop a run like a kill between two of them."""

from __future__ import annotations


class Blobs:
    """Checkpoints in memory; may stop the process after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.kept: dict[str, bytes] = {}
        self.stop_after = stop_after

    def put_blob(self, key: str, data: bytes) -> None:
        self.kept[key] = data
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after == 0:
                raise KeyboardInterrupt

    def get_blob(self, key: str) -> bytes | None:
        return self.kept.get(key)
