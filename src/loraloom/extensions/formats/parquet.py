"""Parquet tables with a column of images and a column of captions, as datasets on the Hugging Face hub have them.

In: a folder of `.parquet` files, such as a hub dataset that was downloaded. Out: one source item per row; captions are read
row group by row group, an image at first use, so memory holds one row group at a time.
"""

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
from loraloom.utils.errors import UserError
from loraloom.utils.listing import Entry, walk
from loraloom.utils.untrusted import check_regular_file, library_errors

_MAX_GROUP_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Cell:
    """An image in a Parquet file; see `ImageData`."""

    path: Path
    group: int
    row: int
    column: str

    def read(self, max_bytes: int) -> bytes:
        """The bytes; the row group stays in memory for its next row."""
        stamp = self.path.stat().st_mtime_ns
        column = _column(self.path, self.group, self.column, stamp)
        return _arrow.image_bytes(column[self.row].as_py(), f"row {self.row} of group {self.group}", max_bytes)


@lru_cache(maxsize=1)
def _column(path: Path, group: int, column: str, stamp: int) -> Any:
    with library_errors("the Parquet table", path):
        return _open(path).read_row_group(group, columns=[column]).column(column)


def _open(path: Path) -> Any:
    check_regular_file(path, "the Parquet table", max_bytes=_arrow.MAX_BYTES)
    return _arrow.pyarrow("pyarrow.parquet").ParquetFile(path)


class Parquet:
    """The `parquet` layout."""

    name = "parquet"
    settings = PackedImages
    expects = (
        "Parquet tables (.parquet) with a column of images (--image-column) and one of captions (--caption-column)"
    )
    priority = 24

    def sniff(self, folder: Path, options: Mapping[str, Any]) -> str | None:
        """The number of tables and rows; no tables of images where image files lie beside them."""
        tables = _tables(folder)
        if not tables or has_images(folder):
            return None
        if not _arrow.is_installed():
            return counted(len(tables), "Parquet table")
        rows = 0
        for entry in (entry for entry in tables if entry.problem is None):
            with library_errors("the Parquet table", entry.path):
                rows += _open(entry.path).metadata.num_rows
        return f"{counted(rows, 'row')} in {counted(len(tables), 'Parquet table')}"

    def read(self, folder: Path, options: Mapping[str, Any]) -> Iterator[SourceItem]:
        """All rows of all tables."""
        _arrow.pyarrow()
        items: list[SourceItem] = []
        for entry in _tables(folder):
            if entry.problem is not None:
                items.append(SourceItem(id=entry.stem, image=entry.path, caption=None, problem=entry.problem))
                continue
            try:
                items.extend(_rows(entry, options))
            except UserError as error:
                if "columns of images" in error.what or "no column" in error.what:
                    raise
                items.append(SourceItem(id=entry.stem, image=entry.path, caption=None, problem=error.what))
        yield from sorted_unique(items)

    def write(self, folder: Path, images: Iterator[PackedImage], shard_size: int) -> list[str]:
        """Tables `train-00000.parquet`, one row group of at most 100 rows after another; see `WritableFormat`."""
        parquet = _arrow.pyarrow("pyarrow.parquet")
        for split, number, rows in _arrow.shards_of(images, shard_size):
            parquet.write_table(_arrow.table_of(rows), folder / f"{split}-{number:05d}.parquet", row_group_size=100)
        return []


def _tables(folder: Path) -> list[Entry]:
    return [entry for entry in walk(folder) if entry.suffix == ".parquet" and not entry.system]


def _rows(entry: Entry, options: Mapping[str, Any]) -> Iterator[SourceItem]:
    with library_errors("the Parquet table", entry.path):
        table = _open(entry.path)
        schema = table.schema_arrow
    columns = _arrow.columns_of(schema, options, entry.name)
    image, caption = columns.image, columns.caption
    wanted = [*([f"{image}.path"] if columns.has_path else []), *([caption] if caption else [])]
    wanted += ["captions"] if columns.has_more else []
    first = 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group)
        if size.total_byte_size > _MAX_GROUP_BYTES:
            got = f"{size.total_byte_size / 1e9:.1f} GB"
            raise UserError(
                f"row group {group} of {entry.name} is too large", got=got, fix="write it with smaller row groups"
            )
        with library_errors("the Parquet table", entry.path):
            part = table.read_row_group(group, columns=wanted)
            none: list[Any] = [None] * size.num_rows
            names = (
                [row["path"] if row else None for row in part.column(image).to_pylist()] if columns.has_path else none
            )
            captions = part.column(caption).to_pylist() if caption else none
            more = part.column("captions").to_pylist() if columns.has_more else none
        cells = [Cell(entry.path, group, row, image) for row in range(size.num_rows)]
        yield from _arrow.items_of(names, captions, more, entry.path, entry.stem, first, cells.__getitem__)
        first += size.num_rows


FORMAT: WritableFormat = Parquet()
CONTRACT = _arrow.contract_of(FORMAT)
