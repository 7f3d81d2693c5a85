"""The image with the verdicts: every label in its room, every sentence in the list, nothing cut, the right colours."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loraloom.extensions.domains.floorplan.plan import MOST_ROOMS, Plan, annotate
from loraloom.extensions.domains.floorplan.render.legend import MOST_LISTED, Panel
from loraloom.extensions.domains.floorplan.render.lettering import LANGUAGES, font, room_name
from loraloom.extensions.domains.floorplan.render.overlay import draw_overlay
from loraloom.extensions.domains.floorplan.render.painting import paint
from loraloom.extensions.domains.floorplan.render.placing import clearest, overlap, place_labels
from loraloom.extensions.domains.floorplan.render.sheet import AMBER, GREEN, GREY, RED, Sheet, width_of, wrapped
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.spec import parse_spec, spec_of
from loraloom.extensions.domains.floorplan.verify.verifying import verify
from loraloom.extensions.domains.floorplan.vision.reading import Reading, read
from loraloom.extensions.domains.floorplan.vocabulary import RoomId
from loraloom.protocols.domain import Receipt, Unread, Verdict
from loraloom.utils.errors import UserError
from tests.support.images import shared_data

MARGIN, SIDE, SCALE = 36, 1024, 4


@cache
def plan(seed: int) -> Plan:
    return synthesise(seed).plan


def overlay(image_of: int, text_of: int, style: str = "sjh", language: str = "en", size: int = 256) -> Image.Image:
    image = Image.fromarray(paint(plan(image_of).labels, style)).resize((size, size), Image.Resampling.NEAREST)
    reading = Reading(plan(image_of), 0.0, True)
    return draw_overlay(image, reading, verify(spec_of(plan(text_of), style), reading), language=language)


def count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    """Pixels of exactly this colour on the plan itself."""
    crop = np.asarray(image.crop((MARGIN, MARGIN, MARGIN + SIDE, MARGIN + SIDE)))
    return int((crop == colour).all(-1).sum())


def test_the_same_plan_gives_the_same_image_with_the_plan_at_1024() -> None:
    image = overlay(1, 1)
    assert (image.mode, image.width) == ("RGB", 2 * MARGIN + SIDE + 44 + 540)
    assert image.tobytes() == overlay(1, 1).tobytes()
    # A corner of the master room: its colour, made paler by 30 %.
    left, top, _, _ = next(room.box for room in plan(1).rooms if room.id.kind == "master room")
    corner = left * SCALE + MARGIN + 1, top * SCALE + MARGIN + 1
    assert image.getpixel(corner) == pytest.approx((77, 255, 77), abs=1)


def test_a_larger_image_of_the_same_plan_gives_the_same() -> None:
    assert overlay(1, 2, size=512).tobytes() == overlay(1, 2).tobytes()


def test_a_plan_that_does_all_is_marked_green_only() -> None:
    image = overlay(1, 1)
    assert count(image, GREEN) > 500
    assert count(image, RED) == count(image, AMBER) == count(image, GREY) == 0


def test_a_wrong_plan_has_red_links_and_amber_rings() -> None:
    """Plan 4 against text 1: one bedroom more than counted, doors that nobody asked for, positions that fail."""
    image = overlay(4, 1)
    assert all(count(image, colour) > 300 for colour in (GREEN, RED, AMBER, GREY))


def test_doors_that_prove_a_connection_are_ringed() -> None:
    spec = spec_of(plan(2))
    reading = Reading(plan(2), 0.0, True)
    image = draw_overlay(Image.fromarray(paint(plan(2).labels)), reading, verify(spec, reading))
    doors = [opening.box for opening in plan(2).openings if opening.kind == "interior door"]
    assert doors
    for left, top, right, bottom in doors:
        x, y = (left + right) * SCALE // 2 + MARGIN, (top + bottom) * SCALE // 2 + MARGIN
        upper = top * SCALE + MARGIN - 7 + 2
        leftmost = left * SCALE + MARGIN - 7 + 2
        assert image.getpixel((x, upper)) == GREEN or image.getpixel((leftmost, y)) == GREEN


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_labels_lie_in_their_rooms_and_never_on_each_other(language: str) -> None:
    for seed in range(10):
        texts = {
            room.id: [(room_name(room.id, language), "1.0 m²"), (f"{room_name(room.id, language)} · 1.0 m²",)]
            for room in plan(seed).rooms
        }
        labels = place_labels(plan(seed), SCALE, texts, [])
        assert list(map(str, sorted(labels, key=lambda room: room.rank))) == [str(room.id) for room in plan(seed).rooms]
        frames = [label.frame for label in labels.values()]
        assert not any(overlap(a, b) for index, a in enumerate(frames) for b in frames[index + 1 :])
        for label in labels.values():
            left, top, right, bottom = (value / SCALE for value in label.frame)
            assert plan(seed).mask(label.room)[int(top) : int(bottom), int(left) : int(right)].all(), (seed, label)


def test_a_room_too_small_for_its_label_keeps_it_on_the_image() -> None:
    labels = np.zeros((256, 256), np.uint8)
    labels[0:6, 250:256] = 4
    small = read(Image.fromarray(paint(labels))).plan
    label = place_labels(small, SCALE, {RoomId("bathroom", 1): [("bathroom #1", "0.2 m²")]}, [])[RoomId("bathroom", 1)]
    assert 0 <= label.frame[0] < label.frame[2] <= SIDE
    assert 0 <= label.frame[1] < label.frame[3] <= SIDE


def test_badges_go_where_nothing_is() -> None:
    taken = [(0.0, 0.0, 10.0, 10.0)]
    assert clearest([(5, 5, 9, 9), (20, 5, 24, 9)], taken, (0, 0, 30, 30)) == (20, 5, 24, 9)
    assert clearest([(5, 5, 9, 9), (28, 5, 32, 9)], taken, (0, 0, 30, 30)) == (28, 5, 32, 9)


@pytest.mark.parametrize("number", [8, 40, MOST_LISTED + 30])
def test_the_list_is_never_cut(number: int) -> None:
    long = "a sentence that goes on " * 6 + "word" * 60
    receipt = Receipt(
        verdicts=tuple(
            Verdict(
                sentence=long if index % 7 == 0 else f"{index} bedroom",
                section="count" if index < 8 else "position",
                met=met,
                reason="seen " * 20,
            )
            for index, met in zip(range(number), [True, False, None] * 200, strict=False)
        ),
        extras=(long, "short"),
    )
    for words in LANGUAGES.values():
        panel = Panel(receipt, words, 540, 1100)
        ends = [line.right + width_of(line.text, panel._size, line.bold) for line in panel._lines]
        assert max(ends) <= 540.5
        assert panel.height >= max(line.down for line in panel._lines)
        numbers = sorted(line.number for line in panel._lines if line.number > 0)
        assert any("30" in line.text and line.bold for line in panel._lines) == (number > MOST_LISTED)
        assert numbers == list(range(1, min(number, MOST_LISTED) + 1))
    image = draw_overlay(Image.fromarray(paint(plan(1).labels)), Reading(plan(1), 0.0, True), receipt)
    assert image.height == 2 * MARGIN + max(SIDE + 92, Panel(receipt, LANGUAGES["en"], 540, SIDE + 92).height)


def test_the_legend_lists_what_of_the_text_is_not_judged() -> None:
    """Words in letters that the font lacks are counted, not drawn as boxes."""
    unread = Unread((("study", 2), ("서재", 1)), (("common room", "bedroom", 1),))
    words = LANGUAGES["en"]
    panel = Panel(
        Receipt(verdicts=(Verdict(sentence="1 kitchen", section="count", met=True, reason=""),), unread=unread),
        words,
        540,
        1100,
    )
    shown = [line.text for line in panel._lines]
    assert shown[2:] == [
        "Not understood", "'study' (2 times)", words["more"].format(count=1), "Taken", "'common room' as bedroom",
    ]  # fmt: skip


def test_widths_are_those_of_the_drawn_text() -> None:
    for bold in (False, True):
        for text in ("AVATAR To 1 living room #1 · 40.3 m²", "발코니 #1"):
            assert width_of(text, 17, bold) == pytest.approx(font(34, bold).getlength(text) / 2, abs=0.5)


def test_wrapping_loses_no_letter() -> None:
    text = "one two three " + "x" * 90
    lines = wrapped(text, 16, 120)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(width_of(line, 16) <= 120 for line in lines)
    assert wrapped("", 16, 120) == []


def test_the_font_has_every_letter_of_every_label() -> None:
    """A letter that the font lacks is drawn as an empty box; `scripts/subset_font.py` puts it in."""
    for bold in (False, True):
        face = font(40, bold)
        nothing = bytes(face.getmask("\uf8ff"))
        letters = {
            letter for words in LANGUAGES.values() for text in words.values() for letter in text if letter != " "
        }
        letters |= set("ABCXYZabcxyz0123456789#·²-.,:()[]%“”")
        assert not [letter for letter in letters if bytes(face.getmask(letter)) == nothing]


def test_the_fonts_are_small_and_carry_their_licence() -> None:
    import loraloom

    folder = Path(loraloom.__file__).parent / "assets" / "fonts"
    assert sum(file.stat().st_size for file in folder.glob("*.otf")) < 100_000
    assert "SIL OPEN FONT LICENSE Version 1.1" in (folder / "OFL.txt").read_text(encoding="utf-8")


def test_korean_labels_differ_and_an_unknown_language_is_refused() -> None:
    assert room_name(RoomId("bathroom", 2), "ko") == "욕실 #2"
    assert LANGUAGES["en"].keys() == LANGUAGES["ko"].keys()
    assert overlay(1, 1, language="ko").tobytes() != overlay(1, 1).tobytes()
    with pytest.raises(UserError, match="unknown language"):
        overlay(1, 1, language="de")


def test_a_text_that_asks_for_nothing_and_a_image_without_rooms() -> None:
    empty = read(Image.new("RGB", (256, 256), "white"))
    assert draw_overlay(Image.new("RGB", (256, 256)), empty, Receipt(verdicts=())).width == 1680
    spec = spec_of(plan(1))
    assert draw_overlay(Image.new("RGB", (64, 64)), empty, verify(spec, empty)).width == 1680


def test_marks_have_soft_edges_on_white() -> None:
    sheet = Sheet(40, 40)
    sheet.box((10, 10, 30, 30), RED, radius=10)
    shades = {int(value) for value in np.asarray(sheet.finish())[..., 1].ravel()}
    assert {255, RED[1]} < shades
    assert min(shades) == RED[1]  # no dark fringe


@pytest.mark.parametrize("number", [0, 1, 3])
def test_real_plans_are_drawn(number: int) -> None:
    folder = shared_data("sjh")
    image = Image.open(folder / f"{number}.png").convert("RGB")
    reading = read(image)
    receipt = verify(parse_spec((folder / f"{number}.txt").read_text(encoding="utf-8")), reading)
    drawn = draw_overlay(image, reading, receipt)
    assert receipt.complete
    assert count(drawn, RED) == 0
    assert count(drawn, GREEN) > 500


def test_a_image_in_a_thousand_pieces_is_drawn_without_names() -> None:
    """A model that has learned nothing draws noise: the sheet must come all the same, and soon."""
    labels = np.zeros((256, 256), np.uint8)
    labels[::8, ::8] = 1
    many = annotate(labels)
    assert len(many.rooms) > MOST_ROOMS
    reading = Reading(many, 0.0, True)
    image = draw_overlay(Image.fromarray(paint(labels)), reading, verify(spec_of(plan(1)), reading))
    assert image.width > SIDE
    assert count(image, RED) == count(image, GREEN) == 0
