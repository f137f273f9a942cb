"""Pickles of plain data and NumPy byte arrays, read without running anything that they name.

A pickle is a program: `pickle.load` calls whatever it names. Here every instruction is looked at before the first one
is carried out, only those that build plain values are let through, and the five names that Python 2 and NumPy write for
an array of bytes stand for small classes of our own, which keep the bytes and do nothing else.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from anosynth.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What builds None, truth values, numbers, text, bytes, tuples, lists and mappings, and remembers them.
_PLAIN = frozenset(
    """
    PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
    """.split()  # noqa: SIM905 - forty names are read more easily without quotes
)
# What an array needs beside them: a name, a call of it, and its state.
_ARRAY = frozenset({"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"})
_ALLOWED = _PLAIN | _ARRAY
_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
MAX_CALLS = 64


class PlainArray:
    """An array of bytes as it stood in a pickle.

    Attributes:
        shape: of the array; () until its state was read.
    """

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self._bytes = b""

    def __setstate__(self, state: object) -> None:
        """Keep shape and bytes of the state that NumPy writes; anything but uint8 in row order is refused."""
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("an array without a state")
        _, shape, kind, column_ordered, data = state
        if isinstance(data, str):
            data = data.encode("latin-1")
        plain = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
        if (
            not plain
            or not isinstance(kind, _Kind)
            or kind.name not in ("u1", b"u1")
            or column_ordered
            or not isinstance(data, bytes)
        ):
            raise pickle.UnpicklingError("an array that is not uint8 in row order")
        if int(np.prod(shape, dtype=object)) != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(data)} bytes")
        self.shape, self._bytes = shape, data

    def values(self) -> NDArray[np.uint8]:
        """Return the values, uint8, read-only."""
        return np.frombuffer(self._bytes, dtype=np.uint8).reshape(self.shape)


@dataclass(eq=False)
class _Kind:
    """Stands for numpy.dtype: keeps its name."""

    name: object = None
    align: object = None
    copy: object = None

    def __setstate__(self, state: object) -> None:
        """The byte order of single bytes means nothing."""


def _reconstruct(kind: object, shape: object, letter: object) -> PlainArray:
    return PlainArray()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Stands for _codecs.encode, with which Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1"):
        raise pickle.UnpicklingError("text in an encoding other than latin1")
    return text.encode("latin-1")


_STANDING_FOR = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): PlainArray,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _STANDING_FOR[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("it refers to something outside")


def load_plain(data: bytes, *, name: str) -> dict[object, object]:
    """Read a pickle that holds a mapping of plain values and arrays of bytes.

    Args:
        data: the pickle; text of Python 2 is returned as bytes.
        name: of the file, for errors.

    Returns:
        The mapping; arrays are `PlainArray`.

    Raises:
        DataError: if the pickle is damaged, or holds or names anything else.
    """
    try:
        _look_through(data)
        content = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except (pickle.UnpicklingError, ValueError, TypeError, EOFError, IndexError, KeyError, AttributeError) as error:
        raise DataError(f"{name}: not a pickle of plain data ({error}); replace it by the published file") from error
    except (OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f"{name}: a damaged pickle ({type(error).__name__}); replace it") from error
    if not isinstance(content, dict):
        raise DataError(f"{name}: a pickle of {type(content).__name__}, not of a mapping; replace it")
    return content


def _look_through(data: bytes) -> None:
    calls = 0
    with warnings.catch_warnings():
        # Of text with odd escapes, which changed bytes may look like.
        warnings.simplefilter("ignore", DeprecationWarning)
        for opcode, argument, _ in pickletools.genops(data):
            calls += opcode.name in ("REDUCE", "BUILD")
            if opcode.name not in _ALLOWED or calls > MAX_CALLS:
                raise pickle.UnpicklingError(f"it uses {opcode.name}")
            if opcode.name in _MEMO and cast(int, argument) > len(data):
                raise pickle.UnpicklingError("it remembers more than it holds")
