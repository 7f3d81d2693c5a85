"""`loraloom plan`: every command on real files, every mistake as one error, and what a terminal shows."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from loraloom.cli.app import app
from loraloom.extensions.domains.floorplan import PlanVerifier
from loraloom.extensions.domains.floorplan.cli import verb_plan
from loraloom.extensions.domains.floorplan.cli.inputs import is_plan_file, text_of
from loraloom.extensions.domains.floorplan.plan import Plan
from loraloom.extensions.domains.floorplan.render import showing
from loraloom.extensions.domains.floorplan.render.painting import paint
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.spec import print_spec, spec_of
from loraloom.extensions.domains.floorplan.vision.reading import read
from loraloom.extensions.domains.floorplan.vocabulary import DOOR, WALL
from loraloom.utils.errors import UserError
from loraloom.utils.output_paths import COMMAND
from tests.support.images import shared_data


@cache
def plan(seed: int) -> Plan:
    return synthesise(seed).plan


def run(*arguments: object, code: int = 0) -> Result:
    """A command in this process."""
    result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def mistake(*arguments: object) -> str:
    """The error of a command; it is one line, and perhaps a second that says what to do."""
    with pytest.raises(UserError) as caught:
        run(*arguments)
    text = str(caught.value)
    assert len(text.splitlines()) <= 2
    return text


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A plan's image and text."""
    image, text = tmp_path / "1.png", tmp_path / "1.txt"
    Image.fromarray(paint(plan(1).labels)).save(image)
    text.write_text(print_spec(spec_of(plan(1))), encoding="utf-8")
    return image, text


# ------------------------------------------------------------------------------------------------------- check


def test_check_prints_the_text_of_plain_words_and_what_was_not_understood() -> None:
    output = run("check", "two bedrooms, kitchen left of the living room, a jacuzzi").output
    assert "not understood: 'jacuzzi'" in output
    assert "kitchen #1 is left-of living room #1.\n" in output
    assert "have 1 living room, 1 kitchen, 2 bedroom\n" in output
    assert output.endswith("ok: nothing in this text contradicts itself\n")


def test_what_was_not_understood_is_one_counted_line_and_an_error_with_strict(pair: tuple[Path, Path]) -> None:
    text = "two bedrooms. The study is south of the bathroom and north of the balcony; the study is large"
    line = "not understood: 'study' (2 times), 'south of', 'north of', 'large'"
    output = run("check", text).output
    assert output.splitlines().count(line) == 1
    assert "is above" not in output
    assert run("verify", pair[0], "--text", text, code=1).stderr.splitlines()[0] == line
    for command in (["check", text], ["verify", pair[0], "--text", text]):
        assert mistake(*command, "--strict").startswith(line)
    run("check", "two bedrooms", "--strict")
    assert PlanVerifier().formal(text)[1][0] == line  # what `generate` says


TAKEN = "two bathrooms, a common room. The common room is left of the bathroom. A sauna and a sauna"
UNREAD = [
    "not understood: 'sauna' (2 times)",
    "taken: 'common room' as bedroom (2 times), 'bathroom' as bathroom #1 of 2",
]


def test_a_name_that_leaves_a_choice_is_said_by_every_verb_and_an_error_with_strict(pair: tuple[Path, Path]) -> None:
    """ "Common room" was a bedroom in silence but for `check`."""
    assert [line for line in run("check", TAKEN).output.splitlines() if line in UNREAD] == UNREAD
    assert run("verify", pair[0], "--text", TAKEN, code=1).stderr.splitlines()[:2] == UNREAD
    assert run("show", TAKEN).stderr.splitlines()[:2] == UNREAD
    assert PlanVerifier().formal(TAKEN)[1][:2] == list(PlanVerifier().unread(TAKEN).lines) == UNREAD
    for command in (["check", TAKEN], ["verify", pair[0], "--text", TAKEN], ["check", "two bedrooms, a terrace"]):
        assert "taken: " in mistake(*command, "--strict")


def test_a_receipt_says_what_of_the_text_it_does_not_judge(pair: tuple[Path, Path], tmp_path: Path) -> None:
    run("verify", pair[0], "--text", TAKEN, "--out", tmp_path / "receipts", code=1)
    receipt = json.loads((tmp_path / "receipts" / "1.receipt.json").read_text(encoding="utf-8"))
    assert receipt["not_understood"] == [{"words": "sauna", "times": 2}]
    assert receipt["taken"] == [
        {"words": "common room", "as": "bedroom", "times": 2},
        {"words": "bathroom", "as": "bathroom #1 of 2", "times": 1},
    ]
    full = json.loads(run("verify", pair[0], "--text", pair[1], "--json").stdout)
    assert full["not_understood"] == full["taken"] == []


def test_check_of_a_full_text_prints_it_unchanged(pair: tuple[Path, Path]) -> None:
    output = run("check", pair[1]).output
    assert output.startswith(pair[1].read_text(encoding="utf-8"))


def test_check_names_the_smallest_contradiction_and_fails(tmp_path: Path) -> None:
    text = (
        "[Number and Type of Rooms] The floorplan have 1 living room, 1 kitchen, 1 bathroom, 1 bedroom "
        "[Positional Relationship Between Rooms] bedroom #1 is above living room #1. "
        "kitchen #1 is left-of living room #1. bathroom #1 is left-of kitchen #1. living room #1 is left-of bathroom #1."
    )
    lines = run("check", text, code=1).output.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == [
        "error: “kitchen #1 is left-of living room #1.”, “bathroom #1 is left-of kitchen #1.”, "
        "“living room #1 is left-of bathroom #1.” cannot all hold"
    ]
    assert "ok" not in lines[-1]


def test_check_mistakes(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    assert mistake("check", tmp_path / "wishes.txt") == f"there is no file {tmp_path / 'wishes.txt'}"
    assert f"did you mean {pair[1]}?" in mistake("check", tmp_path / "2.txt")
    for folder in (tmp_path, "."):
        assert "is a folder" in mistake("check", folder)
    (tmp_path / "folder.png").mkdir()
    assert "is a folder" in mistake("show", tmp_path / "folder.png")
    unknown = mistake("check", "[Number and Type of Rooms] The floorplan have 1 livin room")
    assert "unknown room type" in unknown
    assert "did you mean 'living room'?" in unknown
    assert "is an image" in mistake("check", pair[0])
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    assert "is empty" in mistake("check", tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"k\xfcche")
    assert "holds no text" in mistake("check", tmp_path / "latin.txt")
    for empty in ("", "  "):
        assert "the text is empty" in mistake("check", empty)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_of_any_editor_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("two bedrooms, 침실", encoding=encoding)
    assert text_of(str(tmp_path / "a.txt")) == "two bedrooms, 침실"


def test_a_long_text_is_a_text_and_never_a_file_name() -> None:
    for text in ("a b " * 500, "one\ntwo.txt", "kitchen left of the living room", "a\0b.txt"):
        assert text_of(text) == text
    assert not is_plan_file("two bedrooms\nplan.png")
    assert is_plan_file("somewhere/plan.PNG")


# ------------------------------------------------------------------------------------------------------- synthesise


def test_synthesise_writes_pairs_that_verify_and_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "my plans"
    output = run("synthesise", "--count", 2, "--out", folder, "--workers", 1, "--seed", 3).output
    assert output.startswith(f"2 plans in {folder}: ")
    step = f"{COMMAND} prepare '{folder}' --out 'datasets/my plans' --domain floorplan --size 256 --resample nearest"
    assert output.endswith(f"next: {step}\n")
    before = (folder / "label_floorplan" / "0.png").read_bytes()
    run("synthesise", "--count", 3, "--out", folder, "--workers", 1, "--seed", 3, "--validation-share", 0)
    assert (folder / "label_floorplan" / "0.png").read_bytes() == before
    assert len(json.loads((folder / "splits.json").read_text())["train"]) == 3
    for number in range(3):
        run("verify", folder / "label_floorplan" / f"{number}.png", "--text", folder / "input_text" / f"{number}.txt")
    # The truth of a data set has no polygons; its image stands beside it.
    assert "living room #1" in run("show", folder / "truth" / "1.json").output
    assert "more plans than asked for" in mistake("synthesise", "--count", 2, "--out", folder, "--seed", 3)
    assert "another data set" in mistake("synthesise", "--count", 1, "--out", folder, "--seed", 4)
    assert mistake("synthesise", "--style", "sjj", "--out", folder).startswith("unknown style: got 'sjj'")


# ------------------------------------------------------------------------------------------------------- read, verify


@pytest.mark.parametrize("style", ["sjh", "plain"])
def test_read_prints_the_text_and_finds_the_style(tmp_path: Path, style: str) -> None:
    image = tmp_path / "plan.png"
    Image.fromarray(paint(plan(2).labels, style)).resize((512, 512), Image.Resampling.NEAREST).save(image)
    result = run("read", image, "--json", tmp_path / "plan.json")
    assert result.stdout == print_spec(spec_of(plan(2), style))
    assert run("read", tmp_path / "plan.json").stdout == result.stdout
    other = run("read", tmp_path / "plan.json", "--style", "sjh").stdout
    assert other == print_spec(spec_of(plan(2)))
    assert run("read", image, "--style", style).stdout == result.stdout


@pytest.mark.parametrize("number", [0, 1, 3])
def test_read_of_a_real_image_is_its_real_text(number: int) -> None:
    folder = shared_data("sjh")
    assert run("read", folder / f"{number}.png").stdout == (folder / f"{number}.txt").read_text(encoding="utf-8")


def test_read_says_when_colours_are_not_exact(tmp_path: Path) -> None:
    image = tmp_path / "plan.jpg"
    Image.fromarray(paint(plan(2).labels)).resize((512, 512), Image.Resampling.NEAREST).save(image, quality=90)
    result = run("read", image)
    assert result.stdout == print_spec(spec_of(plan(2)))
    assert "not exact" in result.stderr
    missing = tmp_path / "missing.png"
    assert "has another suffix" in mistake("read", missing, "--json", tmp_path / "plan.txt")  # said before it works


def test_verify_of_its_own_text_is_met(pair: tuple[Path, Path]) -> None:
    image, text = pair
    output = run("verify", image, "--text", text).output
    assert "NOT MET" not in output
    assert re.search(r"\n(\d+) of \1 sentences met\n$", output)


def test_verify_writes_the_receipt_and_the_image_and_fails(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    out = tmp_path / "verdicts"
    result = run("verify", pair[0], "--text", print_spec(spec_of(plan(4))), "--out", out, "--language", "ko", code=1)
    receipt = json.loads((out / "1.receipt.json").read_text(encoding="utf-8"))
    assert receipt["not_met"] > 0
    assert result.output.count("NOT MET") == receipt["not_met"]
    assert result.output.count("not asked for") == len(receipt["extras"])
    assert Image.open(out / "1.overlay.png").width > 1024
    printed = run("verify", pair[0], "--text", print_spec(spec_of(plan(4))), "--json", code=1)
    assert json.loads(printed.stdout) == receipt


def test_verify_of_plain_words(pair: tuple[Path, Path]) -> None:
    result = run("verify", pair[0], "--text", "two kitchens and a sauna", code=1)
    assert "2 kitchen" in result.stdout
    assert "sauna" in result.stderr


@pytest.mark.parametrize(
    "command", [["read"], ["verify", "--text", "1 bedroom"], ["show"], ["clean", "--out", "x.png"]]
)
def test_images_that_are_none_are_refused(tmp_path: Path, command: list[str]) -> None:
    name, *rest = command
    missing = tmp_path / "no.png"
    assert mistake(name, missing, *rest) == f"there is no file {missing}"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    assert "cannot be read as an image" in mistake(name, broken, *rest)
    words = tmp_path / "words.png"
    words.write_text("no image", encoding="utf-8")
    assert "no image format that is known" in mistake(name, words, *rest)
    whole = tmp_path / "whole.png"
    Image.fromarray(paint(plan(1).labels)).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-300])
    assert "cannot be read as an image" in mistake(name, cut, *rest)
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(noise)
    assert "is no plan image" in mistake(name, noise, *rest)
    white = tmp_path / "white.png"
    Image.new("RGB", (64, 64), "white").save(white)
    assert "it has no room" in mistake(name, white, *rest)


def test_a_json_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    assert mistake("show", file) == f"there is no file {file}"
    for content in ("{", "[]", "{}", '{"size": 256, "rooms": [], "walls": [], "windows": [], "doors": []}', "\udcff"):
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
        assert "x.json" in mistake("show", file)
    file.write_text("[" * 200_000, encoding="utf-8")
    assert "nested too deeply" in mistake("show", file)
    assert "unknown style" in mistake("show", file, "--style", "nice")


CHANGES = {
    "size out of range": {"size": "256"},
    "size out of range in": {"size": 128},
    "expected 256": {"size": [256, 200]},
    "unknown room type in x.json": {"rooms": [{"type": "living rom", "polygon": []}]},
    "unknown kind of door": {"doors": [{"kind": "wall", "polygon": []}]},
    "NaN is not a JSON number": {"walls": [{"polygon": [[float("nan"), 0], [9, 9], [9, 0]]}]},
    "Infinity is not a JSON number": {"walls": [{"polygon": [[float("inf"), 0], [9, 9], [9, 0]]}]},
    "too many shapes": {"walls": [{"polygon": []}] * 5000},
    "too many corners": {"walls": [{"polygon": [[0, 0], [9, 9]] * 60_000}]},
    "unknown style in x.json": {"style": "nice"},
    "m_per_px out of range": {"m_per_px": "0.1"},
    "got '[1000000000, 1000000000]'": {"size": [10**9, 10**9]},
    "title in x.json is no line of words": {"title": "\x1b[31m"},
    "scale in x.json is no line of words": {"scale": "a" * 1000},
}


@pytest.mark.parametrize("fault", CHANGES)
def test_an_edited_json_is_told_what_is_wrong(tmp_path: Path, pair: tuple[Path, Path], fault: str) -> None:
    file = tmp_path / "x.json"
    run("export", pair[0], "--out", file)
    value = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(value), encoding="utf-8-sig")  # some editors put a mark there
    run("show", file)
    file.write_text(json.dumps(value | CHANGES[fault]), encoding="utf-8")
    assert fault in mistake("show", file)


def test_a_json_keeps_its_style_scale_and_title(tmp_path: Path) -> None:
    image, first, again = tmp_path / "a.png", tmp_path / "b.json", tmp_path / "c.json"
    Image.fromarray(paint(plan(2).labels, "plain")).save(image)
    run("export", image, "--out", first, "--estimate-scale", "--title", "My flat")
    run("export", first, "--out", again)
    assert again.read_bytes() == first.read_bytes()
    run("export", first, "--out", again, "--m-per-px", 0.05, "--title", "Other", "--style", "sjh")
    value = json.loads(again.read_text(encoding="utf-8"))
    assert (value["m_per_px"], value["title"], value["style"], value["scale"]) == (0.05, "Other", "sjh", "given")


def test_a_truth_has_its_own_style_and_needs_its_image(tmp_path: Path) -> None:
    run("synthesise", "--count", 1, "--out", tmp_path, "--workers", 1, "--style", "plain")
    truth = tmp_path / "truth" / "0.json"
    assert run("read", truth).stdout == (tmp_path / "input_text" / "0.txt").read_text(encoding="utf-8")
    (tmp_path / "label_floorplan" / "0.png").unlink()
    assert "its image is missing" in mistake("read", truth)


# ------------------------------------------------------------------------------------------------------- odd images


@pytest.mark.parametrize("style", ["sjh", "plain"])
def test_what_is_transparent_is_outside(tmp_path: Path, style: str) -> None:
    rgb = paint(plan(1).labels, style)
    alpha = np.where(plan(1).labels == 0, 0, 255).astype(np.uint8)
    rgb[plan(1).labels == 0] = 0
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "a.png")
    assert run("read", tmp_path / "a.png").stdout == print_spec(spec_of(plan(1), style))


def test_images_that_are_too_small_too_large_or_in_pieces_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (15, 15), (255, 255, 220)).save(file)
    assert "too small" in mistake("read", file)
    Image.new("1", (5000, 5000)).save(file)
    assert "at most 16 megapixels" in mistake("read", file)
    Image.new("1", (11_000, 11_000)).save(file)  # Pillow itself would warn
    assert "at most 16 megapixels" in mistake("read", file)
    labels = np.full((256, 256), WALL, np.uint8)
    for y in range(1, 250, 12):
        for x in range(1, 250, 12):
            labels[y : y + 9, x : x + 9] = 1
    Image.fromarray(paint(labels)).save(file)
    assert "too many rooms for a plan: got 441" in mistake("export", file, "--out", tmp_path / "a.svg")


def test_a_image_without_walls_or_openings_is_no_plan(tmp_path: Path) -> None:
    file, labels = tmp_path / "a.png", np.zeros((256, 256), np.uint8)
    labels[50:200, 50:200] = 1
    Image.fromarray(paint(labels)).save(file)
    assert "it has no wall" in mistake("read", file)
    labels[:20] = WALL
    Image.fromarray(paint(labels)).save(file)
    assert "only 0% of its rooms' edges" in mistake("read", file)
    labels[45:205, 45:205] = WALL
    labels[50:200, 50:200] = 1
    Image.fromarray(paint(labels)).save(file)
    assert "no room of it has a door or a window" in mistake("read", file)


def test_photographs_are_no_plans() -> None:
    photos = sorted(shared_data("dreambooth").rglob("*.jpg"))[::3]  # of each subject about two
    said = [mistake("read", photo) for photo in photos]
    # A thing before an even background may pass for a drawing in unknown colours.
    assert all("is no plan image: " in line or "is in a palette that no style has" in line for line in said)
    assert sum("is no plan image: " in line for line in said) > 0.8 * len(said)


# ------------------------------------------------------------------------------------------------------- show


def test_show_of_a_image_is_plain_where_there_is_no_terminal(pair: tuple[Path, Path]) -> None:
    output = run("show", pair[0], "--width", 60).output
    assert "\x1b" not in output
    assert "▀" not in output
    assert "L living room" in output
    assert max(map(len, output.split("\n\n")[0].splitlines())) <= 60
    for room in plan(1).rooms:
        assert re.search(rf"{showing.short_name(room.id)} +{room.id} +{room.area_m2:.1f} m²", output)


def test_show_of_a_text_says_that_it_has_no_image(pair: tuple[Path, Path]) -> None:
    output = run("show", pair[1]).output
    assert "A text has no image until a model generates one" in output
    assert all(str(room.id) in output for room in plan(1).rooms)


def test_the_coloured_image_has_the_style_s_colours_and_the_rooms_names() -> None:
    image = showing.terminal_image(plan(1), "sjh", 60)
    lines = image.plain.split("\n")
    assert max(map(len, lines)) <= 60
    assert {len(line) for line in lines} == {len(lines[0])}
    console = Console(force_terminal=True, color_system="truecolor", width=80)
    with console.capture() as capture:
        console.print(image)
    assert "38;2;255;255;220" in capture.get()
    for room in plan(1).rooms:
        if min(room.box[2] - room.box[0], room.box[3] - room.box[1]) > 20:
            assert showing.short_name(room.id) in image.plain


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("width", [40, 72, 120])
def test_walls_stay_closed_when_a_plan_is_made_smaller(seed: int, width: int) -> None:
    """No room touches the outside or another room in the small image: walls and openings lie between."""
    labels = plan(seed).labels
    cell = -(-int(np.ptp(np.nonzero(labels)[1]) + 5) // width)
    small = showing.reduced(labels, cell, cell)
    for a, b in ((small[1:], small[:-1]), (small[:, 1:], small[:, :-1])):
        different = (a < WALL) & (b < WALL) & (a != b)
        assert not different.any(), (seed, width, int(different.sum()))


def test_a_majority_decides_and_a_door_shows() -> None:
    labels = np.ones((4, 8), np.uint8)
    labels[:, 4:] = 2
    labels[2:, 4:6] = DOOR
    assert showing.reduced(labels, 4, 4).tolist() == [[1, 2]]
    labels[:, 4:6] = DOOR
    assert showing.reduced(labels, 4, 4).tolist() == [[1, DOOR]]
    assert showing.reduced(labels[:3, :5], 4, 4).shape == (1, 2)


# ------------------------------------------------------------------------------------------------------- clean, export


def rough_plan(seed: int, path: Path) -> Path:
    """A plan with forty pixels of its walls gone."""
    labels = plan(seed).labels.copy()
    where = np.argwhere(labels == WALL)
    for y, x in where[np.random.default_rng(1).permutation(len(where))[:40]]:
        labels[y, x] = labels[y, min(255, x + 1)]
    Image.fromarray(paint(labels)).save(path)
    return path


def test_clean_straightens_and_keeps_what_the_plan_says(tmp_path: Path) -> None:
    rough, tidy = rough_plan(1, tmp_path / "rough.png"), tmp_path / "tidy.png"
    output = run("clean", rough, "--out", tidy).output
    assert re.fullmatch(r".*tidy\.png: 0\.\d% of the pixels changed\n", output)
    assert spec_of(read(Image.open(tidy)).plan) == spec_of(read(Image.open(rough)).plan)
    assert "nothing to tidy" in run("clean", tidy, "--out", tidy).output
    assert "has another suffix" in mistake("clean", rough, "--out", tmp_path / "tidy.jpg")


def test_clean_tells_when_a_plan_says_more_than_before(tmp_path: Path) -> None:
    """Plan 3 has walls of five pixels, which list a position or not by a hair: straight walls list some more."""
    rough, tidy = rough_plan(3, tmp_path / "rough.png"), tmp_path / "tidy.png"
    output = run("clean", rough, "--out", tidy).output
    before, after = (set(read(Image.open(file)).plan.positions) for file in (rough, tidy))
    assert output.count("now also listed: ") == len(after - before)
    assert before <= after


@pytest.mark.parametrize("suffix", ["svg", "dxf", "geojson", "json", "ifc", "png"])
def test_export_writes_every_format(tmp_path: Path, pair: tuple[Path, Path], suffix: str) -> None:
    library = {"dxf": "ezdxf", "ifc": "ifcopenshell"}.get(suffix)
    if library:
        pytest.importorskip(library)
    file = tmp_path / f"plan.{suffix}"
    assert run("export", pair[0], "--out", file, "--m-per-px", 0.05).output == f"{file}\n"
    assert file.stat().st_size > 500
    if suffix == "json":
        assert json.loads(file.read_text(encoding="utf-8"))["m_per_px"] == 0.05
        again = tmp_path / "again.svg"
        run("export", file, "--out", again)
        assert again.is_file()


def test_export_mistakes(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    assert "unknown export format" in mistake("export", pair[0], "--out", tmp_path / "plan.pdf")
    assert "out of range" in mistake("export", pair[0], "--out", tmp_path / "plan.svg", "--m-per-px", 0)
    assert "interval" in _exported_scale(tmp_path, pair[0])
    svg = tmp_path / "plan.svg"
    assert "twice" in mistake("export", pair[0], "--out", svg, "--m-per-px", 0.1, "--estimate-scale")
    svg.mkdir()
    assert "is a folder" in mistake("export", pair[0], "--out", svg)
    below = pair[1] / "folder"
    for command in (["verify", pair[0], "--text", pair[1]], ["augment", *pair], ["synthesise", "--count", 1]):
        for out in (pair[1], below):
            assert f"{pair[1]} is a file" in mistake(*command, "--out", out)
    assert f"{pair[1]} is a file" in mistake("clean", pair[0], "--out", below / "a.png")


def _exported_scale(folder: Path, image: Path) -> str:
    run("export", image, "--out", folder / "estimated.json", "--estimate-scale")
    return str(json.loads((folder / "estimated.json").read_text(encoding="utf-8"))["scale"])


# ------------------------------------------------------------------------------------------------------- augment


@pytest.mark.parametrize("drop", [None, "light"])
def test_augment_writes_eight_pairs_that_verify(tmp_path: Path, pair: tuple[Path, Path], drop: str | None) -> None:
    out = tmp_path / "more"
    output = run("augment", *pair, "--out", out, *(["--drop", drop] if drop else [])).output
    assert output == f"8 pairs in {out}\n"
    for text in sorted((out / "input_text").iterdir()):
        run("verify", out / "label_floorplan" / f"{text.stem}.png", "--text", text)
    assert "unknown --drop" in mistake("augment", *pair, "--out", out, "--drop", "havy")
    assert "names a room that its image lacks" in mistake(
        "augment", pair[0], "[Connection Between Rooms] storage #9 and living room #1 are connected.", "--out", out
    )


def test_every_command_has_help_and_a_name_of_one_word() -> None:
    for function in verb_plan.COMMANDS:
        text = run(function.__name__.rstrip("_"), "--help").output
        assert " ".join((function.__doc__ or "").split()) in " ".join(text.split())
