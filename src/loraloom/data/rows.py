"""Rows of a large manifest that stay on disk: a sequence of examples that reads each one when it is asked for.

In: a manifest whose every row was checked, and where its rows begin. Out: a `Sequence[Example]` of 13 bytes of memory a row,
which can be cut by slices and masks. The file must stay as it is: a change of it is an error at the next row.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from loraloom.protocols.data import Example
from loraloom.utils.errors import UserError


class ExampleRows(Sequence[Example]):
    """Examples of a file.

    Args:
        file: The manifest.
        offsets: (n,) first byte of each row.
        lengths: (n,) bytes of each row, its line end included.
        held_out: (n,) whether a row belongs to the validation split.
        stamp: Size and time of change of the file when its rows were checked.
    """

    def __init__(
        self,
        file: Path,
        offsets: NDArray[np.int64],
        lengths: NDArray[np.uint32],
        held_out: NDArray[np.bool_],
        stamp: tuple[int, int],
    ) -> None:
        self.file, self.offsets, self.lengths, self.held_out, self.stamp = file, offsets, lengths, held_out, stamp
        self._opened: IO[bytes] | None = None
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "ExampleRows": ...
    def __getitem__(self, index: int | slice) -> "Example | ExampleRows":
        if isinstance(index, slice):
            return self._part(index)
        offset, length = int(self.offsets[index]), int(self.lengths[index])
        with self._lock:
            file = self._file()
            file.seek(offset)
            data = file.read(length)
        row: dict[str, Any] = json.loads(data)
        row["crop"] = tuple(row["crop"])
        row["more_captions"] = tuple(row.get("more_captions", ()))
        return Example(**row)

    def of_split(self, name: str) -> "ExampleRows":
        """The rows of `train` or `validation`."""
        return self._part(self.held_out if name == "validation" else ~self.held_out)

    def _part(self, index: "slice | NDArray[np.bool_]") -> "ExampleRows":
        return ExampleRows(self.file, self.offsets[index], self.lengths[index], self.held_out[index], self.stamp)

    def _file(self) -> IO[bytes]:
        """The opened file, the same as when its rows were checked."""
        if self._opened is None:
            self._opened = self.file.open("rb")
        if stamp_of(os.fstat(self._opened.fileno())) != self.stamp:
            fix = "run the command again: what is read has to stay as it is"
            raise UserError("the manifest was changed while it was in use", got=str(self.file), fix=fix)
        return self._opened

    def __getstate__(self) -> tuple[Any, ...]:
        return self.file, self.offsets, self.lengths, self.held_out, self.stamp

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)


def stamp_of(state: os.stat_result) -> tuple[int, int]:
    """Size and time of change."""
    return state.st_size, state.st_mtime_ns
