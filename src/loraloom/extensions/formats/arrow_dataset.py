"""Datasets that the library `datasets` saved (`save_to_disk`): `data-00000-of-00001.arrow` with `dataset_info.json`.

In: such a folder, one of a `DatasetDict` included. Out: one source item per row. Files are mapped into memory, so an image is
read from the disk at first use; the library itself is not required.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from loraloom.extensions.formats import _arrow
from loraloom.extensions.formats._common import has_images, sorted_unique
from loraloom.protocols.data import PackedImage, SourceItem, WritableFormat
from loraloom.protocols.settings import PackedImages
from loraloom.utils.counted import counted
from loraloom.utils.listing import Entry, walk
from loraloom.utils.untrusted import check_regular_file, library_errors

_OWN_FILES = ("state.json", "dataset_info.json")
_ROWS_A_BATCH = 100


@dataclass(frozen=True, slots=True)
class Cell:
    """An image in an Arrow file; see `ImageData`."""

    path: Path
    batch: int
    row: int
    column: str

    def read(self, max_bytes: int) -> bytes:
        """The bytes."""
        column = _batches(self.path, self.path.stat().st_mtime_ns)[self.batch].column(self.column)
        return _arrow.image_bytes(column[self.row].as_py(), f"row {self.row} of batch {self.batch}", max_bytes)


@lru_cache(maxsize=4)
def _batches(path: Path, stamp: int) -> list[Any]:
    """The record batches of a file, mapped."""
    arrow = _arrow.pyarrow()
    check_regular_file(path, "the Arrow table", max_bytes=_arrow.MAX_BYTES)
    with library_errors("the Arrow table", path):
        mapped = arrow.memory_map(str(path))
        return list(arrow.ipc.open_stream(mapped))


class ArrowDataset:
    """The `arrow_dataset` layout."""

    name = "arrow_dataset"
    settings = PackedImages
    expects = (
        "a dataset saved by the library datasets: data-00000-of-00001.arrow beside dataset_info.json and state.json"
    )
    priority = 28

    def sniff(self, folder: Path, options: Mapping[str, Any]) -> str | None:
        """The number of files and rows."""
        files = _files(folder)
        if not files or has_images(folder):
            return None
        if not _arrow.is_installed():
            return counted(len(files), "Arrow table")
        usable = [entry.path for entry in files if entry.problem is None]
        rows = sum(batch.num_rows for path in usable for batch in _batches(path, path.stat().st_mtime_ns))
        return f"{counted(rows, 'row')} in {counted(len(files), 'Arrow table')}"

    def read(self, folder: Path, options: Mapping[str, Any]) -> Iterator[SourceItem]:
        """All rows of all files."""
        _arrow.pyarrow()
        items: list[SourceItem] = []
        for entry in _files(folder):
            if entry.problem is not None:
                items.append(SourceItem(id=entry.stem, image=entry.path, caption=None, problem=entry.problem))
                continue
            items.extend(_rows(entry, options))
        yield from sorted_unique(items)

    def write(self, folder: Path, images: Iterator[PackedImage], shard_size: int) -> list[str]:
        """A `DatasetDict` of the splits; see `WritableFormat`."""
        arrow = _arrow.pyarrow()
        names: dict[str, list[str]] = {}
        for split, number, rows in _arrow.shards_of(images, shard_size):
            (folder / split).mkdir(exist_ok=True)
            table = _arrow.table_of(rows)
            name = f"data-{number:05d}.arrow"
            with (
                arrow.OSFile(str(folder / split / name), "wb") as file,
                arrow.ipc.new_stream(file, table.schema) as stream,
            ):
                stream.write_table(table, max_chunksize=_ROWS_A_BATCH)
            names.setdefault(split, []).append(name)
        for split, files in names.items():
            state: dict[str, Any] = {
                "_data_files": [{"filename": name} for name in files],
                "_fingerprint": "0" * 16,
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": split,
            }
            (folder / split / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
            info = {"features": _arrow.FEATURES, "citation": "", "description": "", "homepage": "", "license": ""}
            (folder / split / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(names)}), encoding="utf-8")
        return []


def _files(folder: Path) -> list[Entry]:
    """Arrow files beside what `datasets` writes with them."""
    entries = walk(folder)
    homes = {entry.name.rpartition("/")[0] for entry in entries if entry.name.rpartition("/")[2] in _OWN_FILES}
    return [entry for entry in entries if entry.suffix == ".arrow" and entry.name.rpartition("/")[0] in homes]


def _rows(entry: Entry, options: Mapping[str, Any]) -> Iterator[SourceItem]:
    batches = _batches(entry.path, entry.path.stat().st_mtime_ns)
    first = 0
    for number, batch in enumerate(batches):
        columns = _arrow.columns_of(batch.schema, options, entry.name)
        none: list[Any] = [None] * batch.num_rows
        names = batch.column(columns.image).field("path").to_pylist() if columns.has_path else none
        captions = batch.column(columns.caption).to_pylist() if columns.caption else none
        more = batch.column("captions").to_pylist() if columns.has_more else none
        cells = [Cell(entry.path, number, row, columns.image) for row in range(batch.num_rows)]
        yield from _arrow.items_of(names, captions, more, entry.path, entry.stem, first, cells.__getitem__)
        first += batch.num_rows


FORMAT: WritableFormat = ArrowDataset()
CONTRACT = _arrow.contract_of(FORMAT)
