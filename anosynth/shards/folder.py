"""A folder on any file system that fsspec opens, with the few operations that a commit needs.

On a local disk every write goes to a temporary file in the same folder, is synced, and becomes visible at once under
its name. Elsewhere a write is visible when the file system says it is complete (object stores: at the end of a put).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from anosynth.errors import ShardError

TEMPORARY_PREFIX = ".tmp-"
READ_ONLY = 0o444
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}


@dataclass(frozen=True)
class Folder:
    """One folder, local or remote; names are relative to it, POSIX separators.

    Attributes:
        fs: the file system.
        root: absolute path of the folder on it.
        url: what the user called it, for messages.
    """

    fs: fsspec.AbstractFileSystem
    root: str
    url: str

    @classmethod
    def open(cls, url: str | Path) -> Folder:
        """Open a local path (any characters) or an fsspec URL; nothing is created."""
        text = str(url)
        if "://" not in text:
            return cls(LocalFileSystem(), os.path.abspath(text), text)  # noqa: PTH100 - does not resolve links
        fs, root = fsspec.core.url_to_fs(text)
        return cls(fs, root.rstrip("/"), text)

    @property
    def local(self) -> Path | None:
        """The folder as a local path, or None if it lies elsewhere."""
        return Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def path(self, name: str) -> str:
        """Path of an entry on the folder's file system."""
        return f"{self.root}/{name}"

    def label(self, name: str) -> str:
        """An entry as it is called in messages."""
        return f"{self.url.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        """True if an entry of this name is there."""
        return bool(self.fs.exists(self.path(name)))

    def size(self, name: str) -> int | None:
        """Bytes of an entry, None if it is not there."""
        try:
            return int(self.fs.info(self.path(name))["size"])
        except FileNotFoundError:
            return None

    def names(self, under: str) -> list[str]:
        """Names of the files directly in a subfolder, sorted, without temporary ones; empty if there is none."""
        try:
            entries = self.fs.ls(self.path(under), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        found = (str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)
        return sorted(name for name in found if not name.startswith(TEMPORARY_PREFIX))

    def files(self, under: str) -> list[str]:
        """Names of all files below a subfolder, relative to this folder, sorted, without temporary ones."""
        found = (str(path).removeprefix(f"{self.root}/") for path in self.fs.find(self.path(under)))
        return sorted(name for name in found if not name.rsplit("/", 1)[-1].startswith(TEMPORARY_PREFIX))

    def age_s(self, name: str) -> float:
        """Seconds since an entry was written; 0 if it is gone or its file system keeps no times."""
        try:
            written = self.fs.modified(self.path(name))
        except (FileNotFoundError, NotImplementedError):
            return 0.0
        return time.time() - float(written.timestamp())

    def open_file(self, name: str) -> BinaryIO:
        """Open an entry for reading.

        Raises:
            FileNotFoundError: if it is not there.
        """
        return cast(BinaryIO, self.fs.open(self.path(name), "rb"))

    def read(self, name: str) -> bytes:
        """All bytes of an entry; FileNotFoundError if it is not there."""
        return cast(bytes, self.fs.cat_file(self.path(name)))

    def remove(self, name: str) -> None:
        """Remove an entry; nothing happens if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def distrust(self, name: str) -> None:
        """Mark an entry as damaged without touching its bytes: no longer read-only, and modified now.

        Store, pool and DVC's cache may be three names of one file, and all trust a file that is read-only and as old as
        they remember. Without the mark, the command that remakes a pool would be answered from the damaged copy.
        """
        if self.local is not None:
            with contextlib.suppress(OSError):
                path = self.local / name
                path.chmod(path.stat().st_mode | stat.S_IWUSR)
                os.utime(path)

    @contextlib.contextmanager
    def temporary(self, under: str) -> Iterator[Path]:
        """Yield a fresh local path to write to; whatever is left there at the end is removed.

        On a local folder the path lies beside the final one, so that `adopt` can link it; else in the system's
        temporary folder.
        """
        name = f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        if self.local is not None:
            parent = self.local / under
            parent.mkdir(parents=True, exist_ok=True)
            path = parent / name
        else:
            path = Path(tempfile.gettempdir()) / f"anosynth{name}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def adopt(self, temporary: Path, name: str) -> bool:
        """Make a finished temporary file visible, read-only, under a name that is free; False if the name is taken.

        Local: exact, by a hard link, which never overwrites. Elsewhere: the bytes are put with mode "create" (S3:
        If-None-Match), which is exact where the file system has such a put and check-then-write where it has not.
        """
        if self.local is not None:
            temporary.chmod(READ_ONLY)
            _sync(temporary)
            target = self.local / name
            try:
                if not self.link(temporary, name):
                    if target.exists():  # check, then rename: the loser of this race overwrites with a whole file
                        return False
                    temporary.replace(target)
            except FileExistsError:
                return False
            _sync(target.parent)
            return True
        self.fs.makedirs(self.fs._parent(self.path(name)), exist_ok=True)
        try:
            self.fs.put_file(str(temporary), self.path(name), mode="create")
        except FileExistsError:
            return False
        return True

    def link(self, source: Path, name: str) -> bool:
        """Give a local file a second name here, if both lie on one file system that has hard links; else False.

        Raises:
            FileExistsError: if the name is taken.
        """
        if self.local is None:
            return False
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        return True

    def create(self, name: str, data: bytes) -> bool:
        """Write a small entry if its name is free; False if it is taken. As exact as `adopt`."""
        if self.local is not None:
            with self.temporary(os.path.dirname(name)) as path:  # noqa: PTH120 - a name, not a path
                path.write_bytes(data)
                return self.adopt(path, name)
        self.fs.makedirs(self.fs._parent(self.path(name)), exist_ok=True)
        try:
            self.fs.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write an entry, replacing what has its name; readers see the old bytes or the new ones, never a mixture."""
        if self.local is None:
            self.fs.makedirs(self.fs._parent(self.path(name)), exist_ok=True)
            self.fs.pipe_file(self.path(name), data)
            return
        with self.temporary(os.path.dirname(name)) as path:  # noqa: PTH120 - a name, not a path
            path.write_bytes(data)
            _sync(path)
            target = self.local / name
            path.replace(target)
            _sync(target.parent)

    def stale_temporaries(self, under: str, *, older_than_s: float) -> list[str]:
        """Temporary files of broken-off writes: those nobody has written to for a while. Local folders only."""
        if self.local is None or not (self.local / under).is_dir():
            return []
        now = time.time()
        return sorted(
            path.relative_to(self.local).as_posix()
            for path in (self.local / under).rglob(f"{TEMPORARY_PREFIX}*")
            if now - path.stat().st_mtime > older_than_s
        )


@contextlib.contextmanager
def room_for(what: str, *, place: str, need: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn "the disk is full" inside the block into one sentence.

    Args:
        what: what is being written, for example "shard 3 of generate_normals@washer".
        place: where.
        need: tells, after a failure, about how many bytes it takes in all.

    Raises:
        ShardError: if a write fails because of the disk, a quota or a file-size limit. Other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        size = "" if need is None else f" for about {need() / 1e6:.1f} MB"
        raise ShardError(
            f"{place}: no room{size} to write {what} ({os.strerror(error.errno)}); nothing was left half-written; "
            "free some space (python -m anosynth doctor --prune) or name another store (--store, ANOSYNTH_STORE), "
            "then run the same command again"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
