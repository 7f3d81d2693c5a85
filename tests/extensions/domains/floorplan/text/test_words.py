"""Everyday words to a spec: what plain rules reach, and that every word is either understood, ignored aloud or a filler."""

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.extensions.domains.floorplan.text.check import check_spec
from loraloom.extensions.domains.floorplan.text.phrases import FILLERS
from loraloom.extensions.domains.floorplan.text.spec import (  # fmt: skip
    connection_sentence,
    parse_spec,
    position_sentence,
    print_spec,
)
from loraloom.extensions.domains.floorplan.text.words import Understood, spec_from_words
from loraloom.extensions.domains.floorplan.vocabulary import OFFSETS, ROOM_TYPES

JOINTS = {"and", "plus", "as", "well", "which", "that", "와", "과", "랑", "이랑", "하고", "및", "그리고"}
"""Words that only join: fillers too."""


def sentences(found: Understood) -> list[str]:
    spec = found.spec
    doors = [connection_sentence(pair) for pair in spec.connections or ()]
    return [*doors, *(position_sentence(position) for position in spec.positions or ())]


def counted(found: Understood) -> dict[str, int]:
    """The counts that are not 0; types that were not named have none at all."""
    return {kind: count for kind, count in found.spec.counts or () if count}


def words(text: str) -> Counter[str]:
    """Words and numbers, in lower case."""
    return Counter(re.findall(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d+", text.lower().replace("\u2019", "'")))


def check_nothing_is_dropped(text: str) -> Understood:
    found = spec_from_words(text)
    told: Counter[str] = Counter()
    for clause in (*(clause for clause, _ in found.understood), *found.ignored):
        assert clause in text
        told += words(clause)
    silent = FILLERS | JOINTS
    missing = {
        word
        for word in words(text) - told
        if word not in silent and not any(word.startswith(stem) and word[len(stem) :] in silent for stem in told)
    }
    assert not missing
    assert parse_spec(print_spec(found.spec)) == found.spec
    false = ("none is counted", "do not list", "itself", "times")  # "only 2 are counted" is the text's own mistake
    assert not [problem for problem in check_spec(found.spec) if any(what in problem.message for what in false)]
    assert list(dict(found.spec.counts or ())) == [kind for kind in ROOM_TYPES if found.spec.count(kind) is not None]
    return found


@pytest.mark.parametrize(
    ("text", "counts", "said", "ignored"),
    [
        ("two bedrooms, kitchen left of the living room", {"living room": 1, "kitchen": 1, "bedroom": 2},
         ["kitchen #1 is left-of living room #1."], ()),
        ("a flat with 3 bedrooms and two bathrooms; the balcony is next to the living room, master bedroom above the kitchen,"
         " the bathroom opens to the master room",
         {"living room": 1, "master room": 1, "kitchen": 1, "bathroom": 2, "bedroom": 3, "balcony": 1},
         ["master room #1 and bathroom #1 are connected.", "master room #1 is above kitchen #1."], ("next to",)),
        ("A master bedroom with en-suite, no balcony or storage. Kitchen and bath are connected to the lounge.",
         {"living room": 1, "master room": 1, "kitchen": 1, "bathroom": 1},
         ["master room #1 and bathroom #1 are connected.", "living room #1 and kitchen #1 are connected.",
          "living room #1 and bathroom #1 are connected."], ()),
        ("The kitchen is to the north-east of the living room, below the second bedroom. Bedroom #2 is top-left of the WC.",
         {"living room": 1, "kitchen": 1, "bathroom": 1, "bedroom": 2},
         ["kitchen #1 is right-above living room #1.", "kitchen #1 is below bedroom #2.",
          "bedroom #2 is left-above bathroom #1."], ()),
        ("living room connected to the kitchen, bathroom and bedroom 1, a balcony",
         {"living room": 1, "kitchen": 1, "bathroom": 1, "bedroom": 1, "balcony": 1},
         ["living room #1 and kitchen #1 are connected.", "living room #1 and bathroom #1 are connected.",
          "living room #1 and bedroom #1 are connected."], ()),
        ("bedrooms 1 and 2 are above the living room and the kitchen connects to the hallway",
         {"living room": 1, "kitchen": 1, "bedroom": 2, "entrance": 1},
         ["kitchen #1 and entrance #1 are connected.", "bedroom #1 is above living room #1.",
          "bedroom #2 is above living room #1."], ()),
        ("Both bedrooms open onto the sitting room.", {"living room": 1, "bedroom": 2},
         ["living room #1 and bedroom #1 are connected.", "living room #1 and bedroom #2 are connected."], ()),
        ("to the left of the living room is the kitchen", {"living room": 1, "kitchen": 1},
         ["kitchen #1 is left-of living room #1."], ()),
        ("a door between kitchen and balcony; connect the living room to the entrance",
         {"living room": 1, "kitchen": 1, "balcony": 1, "entrance": 1},
         ["kitchen #1 and balcony #1 are connected.", "living room #1 and entrance #1 are connected."], ()),
        ("3-bed 2-bath flat", {"living room": 1, "bedroom": 3, "bathroom": 2}, [], ()),
        ("bedrooms: 2, bathrooms = 1, kitchen x 1", {"living room": 1, "bedroom": 2, "bathroom": 1, "kitchen": 1}, [], ()),
        ("kitchen is left of the living room and bathroom above the kitchen",
         {"living room": 1, "kitchen": 1, "bathroom": 1},
         ["kitchen #1 is left-of living room #1.", "bathroom #1 is above kitchen #1."], ()),
        ("a closet under the first bedroom which is west of the foyer",
         {"living room": 1, "bedroom": 1, "storage": 1, "entrance": 1},
         ["storage #1 is below bedroom #1.", "bedroom #1 is left-of entrance #1."], ()),
        ("twenty bedrooms, twenty-two bathrooms and 99 kitchens; thirteen balconies",
         {"living room": 1, "kitchen": 99, "bathroom": 22, "bedroom": 20, "balcony": 13}, [], ()),
        ("a balcony or terrace, one kitchen", {"living room": 1, "kitchen": 1, "balcony": 1}, [], ("or",)),
        ("a 90 m2 flat with two bedrooms", {"living room": 1, "bedroom": 2}, [], ("90 m2",)),
        ("2 adults need a kitchen", {"living room": 1, "kitchen": 1}, [], ("2 adults",)),
        ("", {"living room": 1}, [], ()),
    ],
)  # fmt: skip
def test_what_plain_rules_reach(text: str, counts: dict[str, int], said: list[str], ignored: tuple[str, ...]) -> None:
    found = check_nothing_is_dropped(text)
    assert (counted(found), sentences(found), found.ignored) == (counts, said, ignored)


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("the kitchen is not above the bathroom", ("not above",)),
        ("kitchen left of or above the living room", ("left of or above",)),
        ("kitchen or bathroom left of the living room", ("kitchen or bathroom left of",)),
        ("no door between kitchen and balcony", ("no door between",)),
        ("the dining room left of the kitchen", ("dining room left of",)),
        ("the kitchen is left of the garage", ("left of the garage",)),
        ("The kitchen is sunny. It opens to the balcony", ("sunny", "It opens to")),
        ("bedroom left of the bedroom", ("left of",)),
        ("the kitchen and the bathroom are not connected", ("not connected",)),
        ("90 bedrooms left of 90 bathrooms", ("left of",)),
        ("a bedroom without en-suite", ("without en-suite",)),
        ("no bedroom en-suite", ("en-suite",)),
        ("2.5 kitchens", ("2.5 kitchens",)),
        ("W.C. \N{SLIGHTLY SMILING FACE} left", ("W", "C", "\N{SLIGHTLY SMILING FACE} left")),
    ],
)
def test_what_they_do_not_reach_is_said_and_not_guessed(text: str, ignored: tuple[str, ...]) -> None:
    found = check_nothing_is_dropped(text)
    assert sentences(found) == []
    assert found.ignored == ignored


@pytest.mark.parametrize(
    "text",
    ["two bathrooms or three bedrooms", "two or three bedrooms", "not two bedrooms", "방이 두 개가 아니다", "1.5 bathrooms",
     "2-3 bedrooms", "no more than two bedrooms", "not more than two bedrooms", "at least two bedrooms", "2 to 3 bedrooms",
     "about three bedrooms", "1000 bedrooms", "100 bedrooms", "one hundred bedrooms", "1½ bathrooms", "several bedrooms",
     "two bedrooms or more", "two or more bedrooms", "two bedrooms at least", "2+ bedrooms", "~3 bedrooms", "½ bathroom",
     "between two and three bedrooms", "two and a half bathrooms", "a few bedrooms", "one or two balconies", "half a bath",
     "침실 두 개 이상", "침실 최소 두 개", "침실 두 개 또는 세 개", "침실 두세 개", "약 두 개의 침실",
     "침실은 두 개가 필요하지 않다",
     "침실이 아니다", "kitchen 12 m2", "20 m2 kitchen", "kitchen 1.5", "bedroom 1 or 2", "bedroom 1-2", "maybe a balcony",
     "don't need a balcony", "kitchen is not needed", "three bedrooms if possible", "over two bedrooms", "3 en-suite bedrooms",
     "kitchen or bathroom", "two kitchens or three kitchens", "no two bedrooms", "unless two bedrooms", "two en-suites",
     "two bedrooms rather than three", "3 sunny spacious bright bedrooms", "two bedrooms instead of three"],
)  # fmt: skip
def test_doubtful_numbers_leave_the_whole_item_unread(text: str) -> None:
    found = check_nothing_is_dropped(text)
    assert found.ignored == (text,)
    assert found.spec.counts == (("living room", 1),)
    assert [words for words, _ in found.understood if words] == []


@pytest.mark.parametrize(
    ("text", "counts", "ignored"),
    [
        ("bedrooms: 2-3, one kitchen", {"kitchen": 1}, ("bedrooms", "2-3")),
        ("bedrooms: 2 or 3", {}, ("bedrooms", "2 or 3")),
        ("2/3 bedrooms", {}, ("2", "3 bedrooms")),
        ("2 - 3 bedrooms", {}, ("2", "3 bedrooms")),
        ("two, maybe three bedrooms", {}, ("two", "maybe three bedrooms")),
        ("two bedrooms, maybe three", {}, ("two bedrooms", "maybe three")),
        ("two bedrooms (or three); a bath", {"bathroom": 1}, ("two bedrooms", "or three")),
        ("two bedrooms, if possible", {}, ("two bedrooms", "if possible")),
        ("three bedrooms, 2 or 3 bathrooms", {"bedroom": 3}, ("2 or 3 bathrooms",)),
        ("at least two bathrooms and three bedrooms", {"bedroom": 3}, ("at least two bathrooms",)),
        ("no balcony, storage or entrance", {}, ()),
        ("침실 최소 두 개, 욕실 2개", {"bathroom": 2}, ("침실 최소 두 개",)),
        ("two or three bedrooms, the bedroom is above the kitchen", {"kitchen": 1},
         ("two or three bedrooms", "bedroom is above")),
        ("two bedrooms above the kitchen, maybe three bedrooms", {"kitchen": 1, "bedroom": 2}, ("maybe three bedrooms",)),
        ("maybe a balcony. The balcony is left of the kitchen", {"kitchen": 1, "balcony": 1}, ("maybe a balcony",)),
        ("1.5 bathrooms and a master bedroom en-suite", {"master room": 1}, ("1.5 bathrooms", "en-suite")),
    ],
)  # fmt: skip
def test_doubt_takes_no_more_than_it_touches(text: str, counts: dict[str, int], ignored: tuple[str, ...]) -> None:
    found = check_nothing_is_dropped(text)
    assert (counted(found), found.ignored) == ({"living room": 1, **counts}, ignored)


def test_only_what_is_named_is_counted() -> None:
    found = spec_from_words("kitchen left of the living room, no balcony")
    assert found.spec.counts == (("living room", 1), ("kitchen", 1), ("balcony", 0))
    assert found.spec.count("bathroom") is None
    assert "The floorplan have 1 living room, 1 kitchen, 0 balcony\n" in print_spec(found.spec)


def test_an_id_never_raises_a_count() -> None:
    found = check_nothing_is_dropped("two bedrooms; bedroom 3 above the kitchen")
    assert counted(found) == {"living room": 1, "kitchen": 1, "bedroom": 2}
    assert sentences(found) == ["bedroom #3 is above kitchen #1."]
    assert check_spec(found.spec)[0].message.endswith("but only 2 are counted: “2 bedroom”")
    assert counted(spec_from_words("bedroom 3 above the kitchen"))["bedroom"] == 3


@pytest.mark.parametrize("text", ["two or three living rooms", "we do not want a living room"])
def test_no_living_room_is_assumed_where_the_text_is_doubtful_about_it(text: str) -> None:
    found = check_nothing_is_dropped(text)
    assert found.spec.counts is None
    assert found.understood == ()


def test_numbers_that_the_text_leaves_open_are_told() -> None:
    found = spec_from_words("two bathrooms. The bathroom is above the kitchen.")
    assert found.understood[1] == (
        "bathroom is above the kitchen",
        "bathroom #1 is above kitchen #1. (of 2, bathroom #1 is taken)",
    )


def test_a_living_room_is_assumed_unless_it_is_refused() -> None:
    assert spec_from_words("a kitchen").understood[-1] == ("", "assumed: 1 living room, as every plan has one")
    assert counted(spec_from_words("a kitchen, no living room")) == {"kitchen": 1}
    found = check_nothing_is_dropped("no balcony, yet the balcony opens to the kitchen")
    assert counted(found)["balcony"] == 1
    assert found.ignored == ("no balcony", "yet")


SPELLINGS = {
    "left-of": ["left of", "to the left of", "on the left side of", "west of", "to the west of", "left-of",
                "on the left hand side of"],
    "right-of": ["right of", "to the right of", "east of", "at the right of", "오른쪽"],
    "above": ["above", "over", "north of", "to the north of", "on top of", "at the top of", "directly above"],
    "below": ["below", "under", "beneath", "underneath", "south of", "just below"],
    "left-above": ["left-above", "left above", "above left of", "upper left of", "top-left of", "northwest of", "north-west of",
                   "to the upper left of", "in the top left corner of", "above and to the left of"],
    "right-above": ["right-above", "right above", "upper right of", "north east of", "to the north-east of"],
    "left-below": ["left-below", "lower left of", "bottom-left of", "southwest of", "below left of", "left below"],
    "right-below": ["right-below", "lower-right of", "bottom right of", "south-east of", "below and right of"],
}  # fmt: skip


@pytest.mark.parametrize(("direction", "spelling"), [(key, each) for key, every in SPELLINGS.items() for each in every])
def test_directions_have_many_spellings(direction: str, spelling: str) -> None:
    assert set(SPELLINGS) == set(OFFSETS)
    text = f"부엌은 거실 {spelling}" if not spelling.isascii() else f"The kitchen is {spelling} the living room."
    found = check_nothing_is_dropped(text)
    assert sentences(found) == [f"kitchen #1 is {direction} living room #1."]
    assert found.ignored == ()


@pytest.mark.parametrize(
    "spelling",
    ["connected to", "opens to", "opens into", "opens onto", "leads to", "is attached to", "has a door to", "with a door to",
     "is linked with", "accessible from", "is directly connected to"],
)  # fmt: skip
def test_doors_have_many_spellings(spelling: str) -> None:
    found = check_nothing_is_dropped(f"the kitchen {spelling} the living room")
    assert sentences(found) == ["living room #1 and kitchen #1 are connected."]
    assert found.ignored == ()


@pytest.mark.parametrize(
    ("word", "kind"),
    [("main bedroom", "master room"), ("primary bedroom", "master room"), ("toilet", "bathroom"), ("washroom", "bathroom"),
     ("restroom", "bathroom"), ("bath", "bathroom"), ("wc", "bathroom"), ("sitting room", "living room"),
     ("pantry", "storage"), ("store", "storage"), ("entry", "entrance"), ("foyer", "entrance"), ("kids' room", "bedroom"),
     ("guest room", "bedroom"), ("common room", "bedroom"), ("veranda", "balcony"),
     ("현관", "entrance"), ("화장실", "bathroom"), ("베란다", "balcony")],
)  # fmt: skip
def test_rooms_have_many_names(word: str, kind: str) -> None:
    assert counted(spec_from_words(f"a {word}"))[kind] == 1


def test_korean() -> None:
    text = "안방은 거실 왼쪽에 있고 침실 두 개, 욕실 2개. 거실과 주방이 연결된다. 거실 북서쪽에 두 번째 침실이 있다. 창고 없음"
    found = spec_from_words(text)
    assert counted(found) == {"living room": 1, "master room": 1, "kitchen": 1, "bathroom": 2, "bedroom": 2}
    assert sentences(found) == [
        "living room #1 and kitchen #1 are connected.",
        "master room #1 is left-of living room #1.",
        "bedroom #2 is left-above living room #1.",
    ]
    assert found.ignored == ()
    assert spec_from_words("방 3개와 서재, 개방형 주방").ignored == ("서재", "개방형")


# ------------------------------------------------------------------------------------------------- never invented

UNKNOWN = [
    "the study",
    "the office",
    "a dining room",
    "the laundry",
    "two studies",
    "the corridor",
    "the walk-in wardrobe",
]
CLAUSES = [
    "{} is south of the bathroom and north of the balcony", "{} is left of the kitchen, above the bathroom",
    "{}, which is left of the kitchen, is above the balcony", "{} with the bathroom is above the kitchen",
    "{} overlooking the bathroom is north of the balcony", "{} south of the bathroom is north of the balcony",
    "{} is next to the bathroom and left of the kitchen", "{} is next to the bathroom and it is left of the kitchen",
    "{} opens to the balcony and is below the kitchen", "{} is between the kitchen and the bathroom and left of the balcony",
    "the wall between {} and the bathroom is above the kitchen", "the window of {} is left of the kitchen, above the balcony",
    "{} is not above the kitchen but below the bathroom", "{} is opposite the bathroom and right of the kitchen",
    "{} is larger than the bathroom and below the kitchen", "above the kitchen is {}", "{} has an en-suite",
    "left of the kitchen lies {}, below the bathroom", "{}, the kitchen and the bathroom are connected",
    "{} is connected to the kitchen and the bathroom", "there is a door between {} and the kitchen",
    "the kitchen is north of {} and above the window of the bathroom", "{} faces the bathroom and is east of the balcony",
    "it is left of the kitchen", "the bathroom is near {} and it is above the kitchen", "both are left of the kitchen",
    "the kitchen is closer to {} than the bathroom and above the balcony", "neither {} nor the kitchen is above the bathroom",
]  # fmt: skip
"""No sentence of the grammar follows from any of these."""

KNOWN = [
    "two bedrooms, kitchen left of the living room", "The kitchen is above the bathroom and left of the balcony",
    "A master bedroom with en-suite; the balcony is below the kitchen", "Both bedrooms open onto the living room",
    "The bathroom and the kitchen are connected", "to the left of the living room is the kitchen",
    "a door between the kitchen and the balcony",
]  # fmt: skip


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_clause_about_an_unknown_room_comes_to_no_sentence(clause: str) -> None:
    """ "The study is south of the bathroom and north of the balcony" gave *bathroom above balcony*."""
    for unknown in UNKNOWN:
        found = check_nothing_is_dropped(clause.format(unknown))
        assert sentences(found) == [], clause.format(unknown)
        assert found.ignored


@settings(max_examples=200)
@given(
    st.sampled_from(KNOWN), st.sampled_from(CLAUSES), st.sampled_from(UNKNOWN),
    st.sampled_from(["{}. {}.", "{}; {}", "{}\n{}"]), st.booleans(),
)  # fmt: skip
def test_a_clause_about_an_unknown_room_changes_no_sentence_of_a_text(
    text: str, clause: str, unknown: str, joint: str, first: bool
) -> None:
    parts = (clause.format(unknown), text) if first else (text, clause.format(unknown))
    assert sentences(check_nothing_is_dropped(joint.format(*parts))) == sentences(spec_from_words(text))


@settings(max_examples=200)
@given(
    st.sampled_from(KNOWN), st.sampled_from(CLAUSES), st.sampled_from(UNKNOWN),
    st.sampled_from(["{}, {}", "{} and {}", "{}, and {}", "{}, while {}", "{} - {}", "{} ({})"]), st.booleans(),
)  # fmt: skip
def test_within_one_sentence_it_never_adds_one(text: str, clause: str, unknown: str, joint: str, first: bool) -> None:
    parts = (clause.format(unknown), text) if first else (text, clause.format(unknown))
    assert set(sentences(check_nothing_is_dropped(joint.format(*parts)))) <= set(sentences(spec_from_words(text)))


@pytest.mark.parametrize("whole", ["house", "plan", "apartment", "flat", "floor plan", "home"])
@pytest.mark.parametrize("side", ["in the north", "at the top", "on the left side", "in the south-east corner"])
def test_a_side_of_the_whole_plan_is_no_place_beside_the_next_room(whole: str, side: str) -> None:
    """ "In the north of the house with the kitchen to the east" gave *bedroom above kitchen*."""
    for rest in ("with the kitchen to the east", "and the kitchen", "there is a kitchen", "near the kitchen"):
        found = check_nothing_is_dropped(f"The bedroom is {side} of the {whole} {rest}")
        assert sentences(found) == []
        assert found.ignored


@pytest.mark.parametrize(
    "text",
    ["서재는 욕실 남쪽에 있고 발코니 북쪽에 있다", "침실이 있고 거실 왼쪽에 서재가 있다", "서재와 거실, 주방이 연결된다",
     "거실 왼쪽에 서재가 있고 침실이 있다", "서재와 주방이 연결된다", "집의 북쪽에 침실, 동쪽에 주방",
     "서재는 거실 왼쪽, 주방 오른쪽", "욕실 옆 서재는 거실 왼쪽에 있다", "서재는 욕실 옆에 있고 주방 위에 있다"],
)  # fmt: skip
def test_an_unknown_room_in_korean_comes_to_no_sentence(text: str) -> None:
    found = check_nothing_is_dropped(text)
    assert sentences(found) == []
    assert found.ignored


@pytest.mark.parametrize(
    ("text", "said"),
    [("the study is south of the bathroom and the kitchen is left of the balcony", ["kitchen #1 is left-of balcony #1."]),
     ("the study is next to the bathroom and the kitchen is left of the balcony", ["kitchen #1 is left-of balcony #1."]),
     ("the study opens to the bathroom, which is left of the kitchen", ["bathroom #1 is left-of kitchen #1."]),
     ("there is a kitchen, and left of the bathroom is the bedroom", ["bedroom #1 is left-of bathroom #1."]),
     ("the study and the bathroom are above the kitchen", ["bathroom #1 is above kitchen #1."]),
     ("the study is large, the kitchen and the bathroom are connected", ["kitchen #1 and bathroom #1 are connected."]),
     ("거실 왼쪽에는 서재, 주방 위에는 침실", ["bedroom #1 is above kitchen #1."])],
)  # fmt: skip
def test_what_stands_beside_an_unknown_room_is_still_read(text: str, said: list[str]) -> None:
    assert sentences(check_nothing_is_dropped(text)) == said


def test_what_was_not_understood_is_counted_in_one_line() -> None:
    text = "The study is south of the bathroom and north of the balcony. The Study is next to a jacuzzi."
    assert (
        spec_from_words(text).unread.lines[0]
        == "not understood: 'study' (2 times), 'south of', 'north of', 'next to', 'jacuzzi'"
    )
    assert not spec_from_words("two bedrooms").unread


# ------------------------------------------------------------------------------- enumerations with unknown rooms

LISTED = ["the bedroom", "the kitchen", "the bathroom", "the balcony", "the storage", "the master bedroom"]
NOT_KNOWN = ["the study", "the office", "the dining room", "the walk-in wardrobe", "the large home cinema", "the gym"]
BROKEN = {
    "living room connected to {}": "living room #1 and {} are connected.",
    "The living room is connected to {}.": "living room #1 and {} are connected.",
    "the living room opens to {}; it is sunny": "living room #1 and {} are connected.",
    "Connect the living room to {}.": "living room #1 and {} are connected.",
    "{} are connected to the living room": "living room #1 and {} are connected.",
    "{} open to the living room": "living room #1 and {} are connected.",
    "{} are left of the living room": "{} is left-of living room #1.",
    "two entrances; {} are all above the living room.": "{} is above living room #1.",
    "The living room is below {}.": "living room #1 is below {}.",
    "The living room is south of {}, and the entrance is large": "living room #1 is below {}.",
}
"""Texts whose enumeration relates each member to the living room, and the sentence of each."""


@settings(max_examples=300)
@given(
    st.sampled_from(list(BROKEN)), st.lists(st.sampled_from(LISTED), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from(NOT_KNOWN), min_size=1, max_size=2, unique=True), st.randoms(use_true_random=False),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_an_unknown_room_in_a_list_takes_no_relation_from_a_known_one(
    frame: str, known: list[str], unknown: list[str], order: Random, bare: bool, comma: bool
) -> None:
    """ "living room connected to the kitchen, the study and the bathroom" lost the bathroom's door without a word."""
    members = [*known, *unknown]
    order.shuffle(members)
    definite = "The living room is " in frame  # bare: "is below bedroom, study and bath" may be three wishes
    shown = [each.removeprefix("the ") if bare and not definite else each for each in members]
    text = frame.format(", ".join(shown[:-1]) + (", and " if comma and len(shown) > 2 else " and ") + shown[-1])
    found = check_nothing_is_dropped(text)
    rooms = ["master room" if each == "the master bedroom" else each.removeprefix("the ") for each in known]
    expected = {BROKEN[frame].format(f"{room} #1") for room in rooms}
    assert {normal(each) for each in sentences(found)} == {normal(each) for each in expected}
    named = dict(found.unread.not_understood)
    assert {each.removeprefix("the ") for each in unknown} <= set(named)


def normal(sentence: str) -> str:
    """A connection with its rooms in the order of the alphabet."""
    pair = sentence.removesuffix(" are connected.")
    return sentence if pair == sentence else " and ".join(sorted(pair.split(" and ")))


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("The bathroom, the bedroom and the kitchen are connected.", "the bathroom, the bedroom and the kitchen are connected"),
        ("kitchen, bathroom and study are connected", "kitchen, bathroom and study are connected"),
        ("study, kitchen and bathroom are connected", "study, kitchen and bathroom are connected"),
        ("a door between the kitchen, the study and the bathroom", "door between the kitchen, the study and the bathroom"),
        ("connect the kitchen, the bedroom and the bathroom", "connect the kitchen, the bedroom and the bathroom"),
        ("living room, kitchen and bath left of the balcony", "living room, kitchen and bath left of the balcony"),
        ("living room, study and bath left of the balcony", "living room, study and bath left of the balcony"),
        ("the kitchen and the bath left of the living room", "the kitchen and the bath left of the living room"),
        ("living room connected to the kitchen, the bathroom", "connected to the kitchen, the bathroom"),
        ("living room connected to the kitchen, bathroom", "connected to the kitchen, bathroom"),
        ("living room connected to kitchen, bathroom", "connected to kitchen, bathroom"),
        ("living room connected to the kitchen / bathroom", "connected to the kitchen / bathroom"),
        ("living room connected to a kitchen, a bathroom", "connected to a kitchen, a bathroom"),
        ("living room connected to the kitchen, two bathrooms and a balcony",
         "connected to the kitchen, two bathrooms and a balcony"),
        ("living room connected to the kitchen, and two bathrooms", "connected to the kitchen, and two bathrooms"),
        ("the kitchen is left of the living room and two bathrooms", "left of the living room and two bathrooms"),
        ("three bathrooms; two bathrooms are connected to the kitchen", "two bathrooms are connected to the kitchen"),
        ("bedroom 1, the study and the bath, which are left of the kitchen", "bath, which are left of the kitchen"),
        ("the living room opens to the kitchen, the study or the bathroom", "opens to the kitchen, the study or"),
        ("the study or the kitchen left of the bath", "the study or the kitchen left of the bath"),
        ("거실, 주방, 욕실이 연결된다", "거실, 주방, 욕실이 연결된다"),
    ],
)  # fmt: skip
def test_an_enumeration_that_may_mean_two_things_is_listed_as_a_whole(text: str, phrase: str) -> None:
    """ "living room connected to the kitchen, bathroom" lost the bathroom's door without a word."""
    found = check_nothing_is_dropped(text)
    assert sentences(found) == []
    assert (phrase, 1) in found.unread.not_understood
    assert all(words in phrase or words == "study" for words, _ in found.unread.not_understood)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the kitchen is left of the study and the living room", ["kitchen #1 is left-of living room #1."]),
        ("the bedroom and the study are left of the living room", ["bedroom #1 is left-of living room #1."]),
        ("there is a bathroom, the kitchen and the bedroom are left of the balcony",
         ["bedroom #1 is left-of balcony #1.", "kitchen #1 is left-of balcony #1."]),
        ("The kitchen is left of the living room and there is a bathroom", ["kitchen #1 is left-of living room #1."]),
        ("the kitchen is left of the living room and the bathroom window", ["kitchen #1 is left-of living room #1."]),
        ("a bathroom, a study and a kitchen left of the living room", ["kitchen #1 is left-of living room #1."]),
        ("there is a bedroom and the studies are left of the balcony", []),
        ("the bathroom, a study and the kitchen lie south of the balcony",
         ["bathroom #1 is below balcony #1.", "kitchen #1 is below balcony #1."]),
        ("bedroom/study/kitchen are left of the balcony",
         ["bedroom #1 is left-of balcony #1.", "kitchen #1 is left-of balcony #1."]),
        ("the kitchen is above the balcony, study and bathroom",
         ["kitchen #1 is above balcony #1.", "kitchen #1 is above bathroom #1."]),
        ("connect the kitchen, the study and the bathroom to the living room",
         ["living room #1 and bathroom #1 are connected.", "living room #1 and kitchen #1 are connected."]),
        ("거실은 주방, 서재, 욕실과 연결된다",
         ["living room #1 and bathroom #1 are connected.", "living room #1 and kitchen #1 are connected."]),
        ("주방과 서재, 욕실은 거실 왼쪽에 있다",
         ["bathroom #1 is left-of living room #1.", "kitchen #1 is left-of living room #1."]),
        ("서재는 주방과 욕실에 연결된다", []),
    ],
)  # fmt: skip
def test_each_known_member_has_its_relation_and_no_other_room(text: str, said: list[str]) -> None:
    assert sorted(sentences(check_nothing_is_dropped(text))) == said


@given(
    st.sampled_from(["bathroom", "bedroom", "balcony"]), st.integers(1, 5),
    st.sampled_from(["the kitchen", "a kitchen", "kitchen"]),
    st.sampled_from([" and ", " as well as ", " plus "]), st.sampled_from(["connected to", "opens to", "is linked with"]),
    st.booleans(), st.sampled_from(["", ", a foyer", ". One storage room", ", one foyer"]),
)  # fmt: skip
def test_a_relation_reaches_every_room_of_a_number_in_its_list(
    kind: str, count: int, kitchen: str, joint: str, verb: str, first: bool, behind: str
) -> None:
    """ "connected to the kitchen and two bathrooms" gave the door to the kitchen only, and counted the bathrooms."""
    plural = kind if count == 1 else "balconies" if kind == "balcony" else f"{kind}s"
    members = [f"{count} {plural}", kitchen] if first else [kitchen, f"{count} {plural}"]
    found = check_nothing_is_dropped(f"The living room {verb} {joint.join(members)}{behind}")
    rooms = ["kitchen #1", *(f"{kind} #{number}" for number in range(1, count + 1))]
    assert {normal(each) for each in sentences(found)} == {
        normal(f"living room #1 and {room} are connected.") for room in rooms
    }
    assert found.ignored == ()


vocabulary = st.sampled_from(
    ["two", "3", "a", "the", "no", "bedroom", "bedrooms", "kitchen", "living room", "balcony", "master bedroom", "bath",
     "en-suite", "and", "or", ",", ".", ";", "\n", "left of", "above", "north-east of", "connected to", "are connected",
     "door between",
     "next to", "not", "which", "is", "are", "second", "#2", "2", ":", "sunny", "dining room", "both", "거실", "안방은",
     "왼쪽에", "연결된다", "침실", "두 개", "it", "with", "-", "(", ")", "99", "0", "without", "right above", "at least",
     "about", "or more", "1.5", "1000", "maybe", "twenty", "if", "아니다", "m2", "+", "few", "2-3", "over", "not needed",
     "lacks", "free", "is missing", "instead of", "but", "nobody", "없는", "대신", "X", "none", "?", "/", "balcony-free"]
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(vocabulary, max_size=14).map(" ".join))
def test_every_word_is_understood_or_ignored_aloud(text: str) -> None:
    check_nothing_is_dropped(text)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    spec_from_words(text)
