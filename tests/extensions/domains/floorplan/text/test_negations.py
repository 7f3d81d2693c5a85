"""Rooms that a text refuses: never counted as wanted, at any distance from the negation, on either side of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.extensions.domains.floorplan.text.words import Understood, spec_from_words

from .test_words import check_nothing_is_dropped, sentences

ROOMS = {
    "kitchen": "kitchen",
    "bathroom": "bathroom",
    "balcony": "balcony",
    "storage": "storage room",
    "entrance": "foyer",
}
KOREAN = {"kitchen": "주방", "bathroom": "욕실", "balcony": "발코니", "storage": "창고", "entrance": "현관"}
CERTAIN = [
    "A house without a {}", "The plan lacks a {}", "there is not a {}", "There is no {}", "a flat with no {}", "A home sans {}",
    "a flat missing a {}", "The house has no need of a {}", "a {}-free flat", "a flat w/o {}", "Without any {}",
    "The house does not have a {}", "a house, minus a {}", "a house devoid of any {}", "free of a {}", "{}: none", "{}: no",
]  # fmt: skip
"""The plan has no such room, and nothing else can be meant."""
UNCERTAIN = [
    "two bedrooms instead of a {}", "we don't want a {}", "we dont want a {}", "a {} is not needed", "a {} is missing",
    "the {} is missing in this plan",
    "nobody wants the {}", "a {} is not wanted by us", "anything but a {}", "the house is not without a {}", "no separate {}",
    "without, for once, a {}", "without the cost of a {}", "no {} left of the living room", "The bedroom has no {}",
    "two bedrooms without a {}", "a {}-free bedroom", "the study has no {}", "leave out the {}", "no house with a {}",
    "except for a {}", "It is sunny. The bedroom is big. It has no {}", "the {} should be removed",
]  # fmt: skip
"""It may be meant otherwise, so it is listed."""


def assert_not_wanted(found: Understood, kind: str, name: str) -> None:
    """The room is refused, or its words are listed."""
    count = dict(found.spec.counts or ()).get(kind)
    assert not count
    assert count == 0 or any(name in words for words in found.ignored)


@pytest.mark.parametrize("kind", ROOMS)
@pytest.mark.parametrize("frame", CERTAIN)
def test_a_room_that_the_plan_is_to_lack_is_counted_as_none(frame: str, kind: str) -> None:
    """ "A house without a balcony and with two bedrooms" gave *1 balcony*."""
    found = check_nothing_is_dropped(frame.format(ROOMS[kind]))
    assert found.spec.counts is not None
    assert dict(found.spec.counts)[kind] == 0
    assert found.ignored == ()


@pytest.mark.parametrize("kind", ROOMS)
@pytest.mark.parametrize("frame", UNCERTAIN)
def test_a_room_that_may_be_refused_is_listed_and_not_counted(frame: str, kind: str) -> None:
    found = check_nothing_is_dropped(frame.format(ROOMS[kind]))
    assert kind not in dict(found.spec.counts or ())
    assert any(ROOMS[kind] in words for words in found.ignored)


@settings(max_examples=300)
@given(
    st.sampled_from([*CERTAIN, *UNCERTAIN]), st.lists(st.sampled_from(list(ROOMS)), min_size=1, max_size=3, unique=True),
    st.sampled_from([" or ", " or a ", ", "]), st.sampled_from(["", "two bedrooms, ", "two bedrooms and ", "A villa. "]),
    st.sampled_from(["", ", with two bedrooms", " and with two bedrooms", " but two bedrooms", "; two bedrooms",
                     ", two bedrooms"]),
)  # fmt: skip
def test_no_refused_room_is_ever_wanted(frame: str, kinds: list[str], joint: str, before: str, behind: str) -> None:
    """Negation x rooms x joint x position; what is wanted behind the negation stays."""
    if joint == ", " and len(kinds) > 1:
        members = ", ".join(ROOMS[kind] for kind in kinds[:-1]) + ", or " + ROOMS[kinds[-1]]
    else:
        members = joint.join(ROOMS[kind] for kind in kinds)
    if len(kinds) > 1 and not frame.endswith("{}"):
        return
    found = check_nothing_is_dropped(before + frame.format(members) + behind)
    for kind in kinds:
        assert_not_wanted(found, kind, ROOMS[kind])
    if behind and frame in CERTAIN:
        assert found.spec.count("bedroom") == 2


@settings(max_examples=200)
@given(
    st.sampled_from(["{} 없이", "{}가 없는 집", "{} 대신", "{}는 필요 없다", "{}를 원하지 않는다",
                     "{} 제외", "{} 말고", "{}가 전혀 없음",
                     "{} X", "집에 {}가 없다", "{}는 만들지 마세요", "{}가 없지 않다", "{} 빼고", "거실 왼쪽에 {}가 없다"]),
    st.lists(st.sampled_from(list(KOREAN)), min_size=1, max_size=3, unique=True),
    st.sampled_from(["와 ", ", ", " 또는 ", " 및 "]), st.sampled_from(["", ", 침실 두 개", ". 침실 두 개"]),
)  # fmt: skip
def test_no_refused_room_is_ever_wanted_in_korean(frame: str, kinds: list[str], joint: str, behind: str) -> None:
    kinds = kinds[:1] if joint == ", " and not frame.startswith("{} 없") else kinds
    found = check_nothing_is_dropped(frame.format(joint.join(KOREAN[kind] for kind in kinds)) + behind)
    for kind in kinds:
        assert_not_wanted(found, kind, KOREAN[kind])
    assert not behind or found.spec.count("bedroom") == 2


@pytest.mark.parametrize(
    ("text", "counts", "ignored"),
    [
        ("A house without a balcony and with two bedrooms", {"balcony": 0, "bedroom": 2}, ()),
        ("without a balcony or a storage room", {"balcony": 0, "storage": 0}, ()),
        ("without a balcony, with two bedrooms", {"balcony": 0, "bedroom": 2}, ()),
        ("no balcony, storage or foyer", {"balcony": 0, "storage": 0, "entrance": 0}, ()),
        ("no garden or balcony", {"balcony": 0}, ("no garden",)),
        ("no balcony and a kitchen", {"balcony": 0, "kitchen": 1}, ()),
        ("no balcony and kitchen", {"balcony": 0}, ("kitchen",)),
        ("no balcony but a kitchen", {"balcony": 0, "kitchen": 1}, ("but",)),
        ("three bedrooms, no balcony, kitchen", {"bedroom": 3, "balcony": 0, "kitchen": 1}, ()),
        ("without a balcony and two bedrooms", {"balcony": 0}, ("two bedrooms",)),
        ("without a balcony and a kitchen", {"balcony": 0}, ("kitchen",)),
        ("We don't want a balcony, a kitchen, a foyer", {}, ("don't want a balcony", "kitchen", "foyer")),
        ("I don't need a balcony and I want a kitchen", {"kitchen": 1}, ("don't need a balcony",)),
        ("instead of a balcony, a kitchen", {"kitchen": 1}, ("instead of a balcony",)),
        ("the balcony and the kitchen are missing", {}, ("balcony and the kitchen are missing",)),
        ("two bedrooms, a balcony is not wanted", {"bedroom": 2}, ("balcony is not wanted",)),
        ("balcony: no, kitchen: yes", {"balcony": 0, "kitchen": 1}, ("yes",)),
        ("a kitchenless flat", {"kitchen": 0}, ()),
        ("no window in the kitchen", {"kitchen": 1}, ("no window",)),
        ("no balcony in the house, two bedrooms", {"balcony": 0, "bedroom": 2}, ()),
        ("발코니 없이 침실 두 개", {"balcony": 0, "bedroom": 2}, ()),
        ("발코니가 없는 집", {"balcony": 0}, ()),
        ("발코니와 창고가 없는 집", {"balcony": 0, "storage": 0}, ()),
        ("발코니 대신 창고", {"storage": 1}, ("발코니 대신",)),
        ("침실 두 개, 주방, 발코니 대신 창고", {"bedroom": 2, "kitchen": 1, "storage": 1}, ("발코니 대신",)),
        ("주방은 발코니가 없다", {"kitchen": 1}, ("발코니가 없다",)),
        ("발코니가 없는 침실", {"bedroom": 1}, ("발코니가 없는",)),
    ],
)  # fmt: skip
def test_a_negation_reaches_over_its_list_and_ends_with_it(
    text: str, counts: dict[str, int], ignored: tuple[str, ...]
) -> None:
    found = check_nothing_is_dropped(text)
    assert dict(found.spec.counts or ()) == {"living room": 1, **counts}
    assert found.ignored == ignored


@pytest.mark.parametrize(
    "text",
    ["no balcony left of the kitchen", "a kitchen without a balcony left of the living room", "no door to the kitchen"],
)
def test_a_relation_of_a_refused_room_comes_to_no_sentence(text: str) -> None:
    assert sentences(spec_from_words(text)) == []
