"""What every folder layout promises, whichever it is."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from loraloom import plugins
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.detect import choose_format, format_options
from loraloom.prepare.leftovers import find_leftovers
from loraloom.protocols.data import Format
from tests.support.images import drawn, save

OPTIONS = format_options(PrepareConfig())
IDS = ["a", "b", "sub/c", "sub/deep/d"]


def _sidecar(root: Path) -> Path:
    for number, item_id in enumerate(IDS):
        save(drawn(number, 8, 8), root / f"{item_id}.png", f" caption of {item_id}\n")
    return root


def _paired_folders(root: Path) -> Path:
    for number, item_id in enumerate(IDS):
        save(drawn(number, 8, 8), root / "label_floorplan" / f"{item_id}.png")
        text = root / "input_text" / f"{item_id}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f" caption of {item_id}\n", encoding="utf-8")
    return root


def _imagefolder(root: Path) -> Path:
    for number, item_id in enumerate(IDS):
        save(drawn(number, 8, 8), root / f"{item_id}.png")
    rows = [json.dumps({"file_name": f"{item_id}.png", "text": f" caption of {item_id}\n"}) for item_id in IDS]
    (root / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "sidecar": _sidecar,
    "paired_folders": _paired_folders,
    "imagefolder": _imagefolder,
}
every_format = pytest.mark.parametrize("name", plugins.names("formats"))


def made(name: str, root: Path) -> tuple[Format, Path]:
    if name not in MAKERS:
        pytest.fail(f"add a maker of a {name} folder to this suite")
    root.mkdir()
    return plugins.load("formats", name), MAKERS[name](root)


@every_format
def test_it_is_named_as_its_file_and_says_what_it_expects(name: str) -> None:
    layout: Format = plugins.load("formats", name)
    assert layout.name == name
    assert layout.expects
    assert "\n" not in layout.expects


@every_format
def test_it_recognises_its_own_layout_with_a_reason_that_has_a_number(name: str, tmp_path: Path) -> None:
    layout, root = made(name, tmp_path / "x")
    reason = layout.sniff(root, OPTIONS)
    assert reason is not None
    assert "4 images" in reason


@every_format
def test_auto_chooses_it_for_its_own_layout(name: str, tmp_path: Path) -> None:
    _, root = made(name, tmp_path / "x")
    assert choose_format(root, "auto", OPTIONS).format.name == name


@every_format
def test_it_reads_every_image_in_id_order_with_its_caption_exactly_as_found(name: str, tmp_path: Path) -> None:
    layout, root = made(name, tmp_path / "x")
    items = list(layout.read(root, OPTIONS))
    assert [item.id for item in items] == IDS
    assert [item.caption for item in items] == [f" caption of {item_id}\n" for item_id in IDS]
    assert all(item.image.is_file() and item.problem is None for item in items)


@every_format
def test_it_names_the_file_that_each_caption_comes_from(name: str, tmp_path: Path) -> None:
    """By that `prepare` tells what nobody reads, and lists it."""
    layout, root = made(name, tmp_path / "x")
    items = list(layout.read(root, OPTIONS))
    assert all(item.source is not None and item.source.is_file() and not item.notes for item in items)
    assert not find_leftovers(root, items, name).problems


@every_format
def test_it_recognises_nothing_in_an_empty_folder(name: str, tmp_path: Path) -> None:
    assert plugins.load("formats", name).sniff(tmp_path, OPTIONS) is None


@every_format
def test_it_opens_no_image(name: str, tmp_path: Path) -> None:
    layout, root = made(name, tmp_path / "x")
    for path in root.rglob("*.png"):
        path.write_bytes(b"not an image")
    assert len(list(layout.read(root, OPTIONS))) == len(IDS)


@every_format
@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_out_of_the_folder_is_a_problem_and_one_inside_is_a_image(name: str, tmp_path: Path) -> None:
    layout, root = made(name, tmp_path / "x")
    secret = save(drawn(9, 8, 8), tmp_path / "secret.png")
    for path in root.rglob("a.png"):
        path.unlink()
        path.symlink_to(secret)
    (inside,) = root.rglob("b.png")
    inside.rename(inside.with_name("real.bin"))
    inside.symlink_to(inside.with_name("real.bin"))
    items = {item.id: item for item in layout.read(root, OPTIONS)}
    assert "leads out of the folder" in (items["a"].problem or "")
    assert items["b"].problem is None


@every_format
def test_two_images_with_one_id_are_not_both_used(name: str, tmp_path: Path) -> None:
    layout, root = made(name, tmp_path / "x")
    (first,) = root.rglob("a.png")
    save(drawn(5, 8, 8), first.with_suffix(".jpg"))
    used = [item.id for item in layout.read(root, OPTIONS) if item.problem is None]
    assert used == IDS
