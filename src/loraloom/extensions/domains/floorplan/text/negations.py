"""Find the rooms that free text refuses: "without a balcony or a storage room", "a balcony-free flat", "발코니가 없는 집".

In: a `Reading` whose rooms have numbers. Out: the same, where a refused room has count 0, and a room that may be
refused has a `doubt`, so that it is listed and never counted as wanted.

A negation applies to an enumeration after its word. It ends where a new clause begins ("with", "but", "and has", a
number after a comma). The whole plan must lack the room: "a kitchen without a balcony" does not refuse the plan's
balconies.
"""

from dataclasses import dataclass
from typing import Literal

from .phrases import EXCHANGED, HYPHENS
from .reading import Item, Reading

RELATIONS = ("direction", "direction-after", "door", "doors", "door-after", "between", "near", "ensuite")
_JOINTS = ("comma", "and", "or")
_ENDS = ("stop", *_JOINTS, *RELATIONS, "none", "not", "none-after", "not-after", "free-after", "who")
_HEDGES = frozenset(["if", "maybe", "perhaps", "unless"])
_WHOLE = frozenset([
    "house", "flat", "apartment", "home", "plan", "plans", "floor", "floorplan", "layout", "design", "building", "villa",
    "cottage", "bungalow", "condo", "condominium", "residence", "dwelling", "unit", "studio", "loft", "penthouse", "duplex",
    "maisonette", "cabin", "place", "property", "one",
    "집", "아파트", "주택", "빌라", "원룸", "평면도", "평면", "도면", "구조", "설계",
])  # fmt: skip
"""Words for the whole plan."""
_PRONOUNS = frozenset(["it", "it's", "its", "they", "this", "that", "which"])
_CONTRAST = frozenset(
    [
        "but",
        "yet",
        "however",
        "though",
        "although",
        "while",
        "whereas",
        "because",
        "so",
        "then",
        "still",
        "only",
        "otherwise",
    ]
)
_CLAUSE = frozenset([
    "with", "has", "have", "having", "had", "there", "i", "we", "you", "it", "want", "would", "like", "need", "please", "give",
    "should", "must", "shall", "can", "will", "may", "let", "draw", "make", "create", "show", "put", "place", "add", "is",
    "are", "contains", "contain", "containing", "includes", "include", "including", "consists", "comprising", "featuring",
    "wants", "needs", "keep", "they", "in",
])  # fmt: skip
"""Words that begin a clause of their own after "and" or a comma."""
_VERBS = frozenset(
    ["is", "are", "was", "were", "has", "have", "lies", "lie", "sits", "stands", "goes", "should", "must", "will"]
)
_PREPOSITIONS = frozenset(
    ["in", "on", "at", "for", "from", "to", "of", "into", "onto", "within", "than", "with", "as", "has"]
)
_ARTICLES = frozenset(["a", "an", "the", "of", "any", "'", '"', "\u2018", "\u2019", "\u201c", "\u201d", "*"])
_ADVERBS = frozenset(
    [
        "but",
        "also",
        "please",
        "definitely",
        "absolutely",
        "certainly",
        "preferably",
        "ideally",
        "really",
        "simply",
        "just",
    ]
)
_KOREAN_ADVERBS = frozenset(["전혀", "아예", "따로", "절대", "필요", "필요가", "공간이"])
_PARTICLES = frozenset(["은", "는", "이", "가", "을", "를", "도", "의", "에", "에는", "에서", "로", "으로", "만"])
_EXCHANGES = ("instead", "rather", "in place", "in lieu")
_CROSSES = frozenset(["x", "\u00d7", "✗", "✘", "❌"])
"""Sign after a room in a table that refuses it: "발코니 X"."""

_MOST_MEMBERS = 100
"""Largest number of members of an enumeration with commas whose end is looked for."""

Fate = Literal["refused", "doubtful", "wanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gap:
    """The words between a place and the next room or the next phrase that is no plain word."""

    item: Item | None
    place: int
    """The room's first phrase, or the phrase that ended the search."""
    words: frozenset[str]
    num_others: int
    last: str
    """The word before the last "the"; empty where there is none."""
    is_odd: bool
    """Whether a word other than an article is among them."""

    def has(self, words: frozenset[str]) -> bool:
        """Whether one of the given words is among them."""
        return bool(self.words & words)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """A negation and its first room."""

    index: int
    is_sure: bool
    is_no: bool
    """Whether a comma and an article end it, as in "no balcony" and a wish list."""
    is_exchange: bool
    item: Item | None
    has_article: bool
    has_the: bool
    is_listed: bool
    """Whether words come before the negation in its sentence: "two bedrooms, no balcony, kitchen" is a wish list."""


def find_negations(reading: Reading) -> None:
    """Give refused rooms the count 0, and rooms that may be refused a doubt."""
    weak: set[int] = set()
    for index, phrase in enumerate(reading.phrases):
        is_cross = phrase.value in _CROSSES and reading.kind(index + 1) in ("comma", "stop")
        is_behind = phrase.kind in ("none-after", "not-after", "free-after") or (
            is_cross and reading.item_at(index - 1)
        )
        is_not = phrase.kind == "not" and phrase.value not in _HEDGES
        if is_behind or (is_not and _is_of_subject(reading, index)):
            _refuse_before(reading, index)
    for index, phrase in enumerate(reading.phrases):
        is_not = phrase.kind == "not" and phrase.value not in (*_HEDGES, "nor") and phrase.value.isascii()
        if (phrase.kind == "none" or is_not) and not _is_answer(reading, index):
            _refuse_behind(reading, index, weak)


def _value(reading: Reading, place: int) -> str:
    return reading.phrases[place].value if 0 <= place < len(reading.phrases) else ""


def _words(reading: Reading, place: int) -> str:
    return reading.words(place, place).lower() if 0 <= place < len(reading.phrases) else ""


def _doubt(item: Item) -> None:
    item.doubt = "room" if item.count in (None, 0) and not item.every else "number"


def _refuse(reading: Reading, item: Item, first: int, last: int) -> None:
    item.count, item.every = 0, False
    item.first, item.last = min(first, item.first), max(last, item.last)
    reading.used.update(
        place for place in range(item.first, item.last + 1) if reading.kind(place) not in ("other", *RELATIONS)
    )


# ------------------------------------------------------------------------------------------- "without" and its rooms


def _gap(reading: Reading, place: int) -> _Gap:
    words: set[str] = set()
    others, before, last, is_odd = 0, "", "", False
    while (item := reading.item_at(place)) is None and reading.kind(place) not in _ENDS:
        word = _words(reading, place)
        if word == "the":
            last = before or "the"
        is_other = reading.kind(place) == "other"
        others += is_other
        is_odd |= word not in _ARTICLES and (not is_other or word in _PREPOSITIONS)
        words.add(word)
        before, place = word, place + 1
    # "no separate kitchen" does not refuse every kitchen.
    return _Gap(
        item=item, place=place, words=frozenset(words), num_others=others, last=last, is_odd=is_odd or others > 0
    )


def _is_answer(reading: Reading, index: int) -> bool:
    """Refuse the room before the sign in "balcony: no, kitchen: yes"."""
    item = reading.item_at(index - 2)
    ends = reading.kind(index + 1) in ("comma", "stop", "and") or _words(reading, index + 1) in _CONTRAST
    if (
        item is None
        or item.last != index - 2
        or _value(reading, index - 1) not in (":", "=", "-", "(", "?")
        or not ends
    ):
        return False
    if item.count is None and not item.ids and reading.kind(index) == "none":
        _refuse(reading, item, item.first, index)
    else:
        _doubt(item)
    return True


def _refuse_behind(reading: Reading, index: int, weak: set[int]) -> None:
    """The rooms after a negation."""
    if reading.kind(index) == "none" and _ends_clause(reading, index):
        _refuse_before(reading, index)  # "the balcony is missing"
        return
    is_sure = reading.kind(index) == "none" and index not in weak and _is_of_plan(reading, index)
    place, gap = index + 1, _gap(reading, index + 1)
    while gap.item is None and reading.kind(gap.place) == "comma" and (gap.place == index + 1 or place > index + 1):
        is_sure, place = False, gap.place + 1  # "without, for once, a balcony"
        gap = _gap(reading, place)
    if gap.item is None and reading.kind(gap.place) in ("none", "not"):
        weak.add(gap.place)  # "not without a balcony"
        return
    if gap.has(_CONTRAST) or (gap.item is None and reading.kind(gap.place) not in _JOINTS):
        return
    words = reading.phrases[index].value
    has_article = gap.has(frozenset(["a", "an"])) or words.endswith((" a", " an", " any"))
    if gap.item is None:
        is_noun = gap.num_others > 0 and (reading.kind(index) == "none" or has_article)
        if not is_noun:
            return
    elif _is_presupposed(gap):
        return  # "no window in the kitchen"
    elif gap.has(frozenset(["with"])) and gap.item.count and reading.kind(index) == "none":
        return  # "no garden with two bedrooms"
    elif is_sure and not gap.is_odd and gap.item.count is None and not gap.item.ids:
        _refuse(reading, gap.item, index, index)
    else:
        is_sure = False
        _doubt(gap.item)
    is_no = words in ("no", "zero") or words.startswith("no need")
    is_exchange = words.startswith(_EXCHANGES)
    is_listed = reading.kind(reading.skip(index - 1, -1)) != "stop"
    head = _Head(
        index=index,
        is_sure=is_sure,
        is_no=is_no,
        is_exchange=is_exchange,
        item=gap.item,
        has_article=has_article,
        has_the="the" in gap.words,
        is_listed=is_listed,
    )
    _follow(reading, head, gap.item.last + 1 if gap.item else gap.place)


def _ends_clause(reading: Reading, index: int) -> bool:
    """Whether the negation refuses the room before it, rather than something that the room lacks."""
    is_behind = reading.item_at(reading.skip(index - 1, -1)) is not None
    if _words(reading, index) not in ("missing", "lacking", "none") or not is_behind:
        return False
    gap = _gap(reading, index + 1)
    return gap.has(_CONTRAST) or (gap.item is None and (not gap.num_others or gap.has(_PREPOSITIONS)))


def _is_presupposed(gap: _Gap) -> bool:
    """Whether the room is there: "no view of the kitchen"."""
    return gap.num_others > 0 and gap.last in ("in", "on", "at", "of", "from", "into", "to")


def _is_of_plan(reading: Reading, index: int) -> bool:
    """Whether the plan lacks the room, and not one of its rooms."""
    words, place, has_verb = reading.phrases[index].value, index - 1, False
    if words == "none":
        return False  # "none of the bedrooms has a balcony"
    if words.startswith("missing") and _words(reading, place) in ("the", "a", "any"):
        return False  # "the missing kitchen"
    while reading.item_at(place) is None:
        word, kind = _words(reading, place), reading.kind(place)
        if word == ":" and reading.item_at(place - 1) is not None:
            return False  # "kitchen: no balcony"
        if kind in ("stop", "comma", "and", "or") or word in _WHOLE:
            return True
        if word in _PRONOUNS or kind == "who":
            return kind != "who" and not any(item.first < place for item in reading.items)
        if kind in ("filler", "all", "number"):
            has_verb |= word in ("has", "have", "with", "having")
        elif kind != "other" or word not in _ADVERBS:
            return kind == "other" and words == "no" and not has_verb
        elif word == "but":
            return True
        place -= 1
    return words in ("no", "zero") and not has_verb


def _follow(reading: Reading, head: _Head, place: int) -> None:
    """The rest of an enumeration whose first member is refused or doubtful."""
    before = head.item
    closing: str | None = None
    while True:
        start = reading.skip(place, 1, _JOINTS)
        joints = {reading.kind(each) for each in range(place, start)}
        gap = _gap(reading, start)
        if gap.has(_CONTRAST):
            return
        if not joints:
            if before is not None and before.count == 0 and _is_narrowed(reading, place):
                _doubt(before)
            if gap.item is not None:
                if _is_presupposed(gap) or (gap.item.count and gap.has(frozenset(["with", "has", "have"]))):
                    return
                _doubt(gap.item)
            elif reading.kind(gap.place) not in _JOINTS:
                return
        elif gap.has(_CLAUSE) or (
            gap.item is None and (gap.place == start or reading.kind(gap.place) not in ("stop", *_JOINTS))
        ):
            return
        elif gap.item is not None:
            closing = closing if closing is not None else _closing(reading, gap.item.last + 1)
            fate = _fate(reading, head, gap, range(place, start), closing)
            if fate == "wanted":
                return
            if fate == "refused":
                _refuse(reading, gap.item, start - 1 if "or" in joints else gap.item.first, gap.item.last)
            else:
                _doubt(gap.item)
        before = gap.item
        place = gap.item.last + 1 if gap.item is not None else gap.place
        if reading.kind(place) == "stop":
            return


def _is_narrowed(reading: Reading, place: int) -> bool:
    """Whether only some such rooms are refused: "no balcony left of the kitchen", "no bathroom in the bedroom"."""
    word, kind = _words(reading, place), reading.kind(place)
    if kind in RELATIONS or kind in ("who", "not", "none", "id"):
        return kind != "ensuite"
    if word in ("in", "on", "for", "from", "of"):
        behind = place + 1
        while _words(reading, behind) in ("the", "this", "that", "my", "our", "a"):
            behind += 1
        return _words(reading, behind) not in _WHOLE
    if word in ("with", "having", "at"):
        behind = _gap(reading, place + 1)
        is_wish = behind.item is not None and bool(behind.item.count)
        return not is_wish and _value(reading, place + 1) != "all"
    return word in _VERBS or word in (
        "that",
        "bigger",
        "larger",
        "smaller",
        "facing",
        "overlooking",
        "other",
        "than",
        "to",
    )


def _fate(reading: Reading, head: _Head, gap: _Gap, joint: range, closing: str) -> Fate:
    """Whether a later member of an enumeration is refused like the first; `closing` joins its last member."""
    joints = {reading.kind(each) for each in joint}
    item = gap.item
    assert item is not None
    has_number, has_article = item.count not in (None, 0) or bool(item.ids), gap.has(frozenset(["a", "an"]))
    is_definite = "the" in gap.words and not head.has_the
    if any(_value(reading, each) == "/" for each in joint):
        return "wanted" if has_number else "doubtful"
    end = "or" if "or" in joints else "and" if "and" in joints else closing
    follows = reading.skip(item.last + 1, 1, ("other",))
    is_subject = _words(reading, follows) in _VERBS
    is_related = reading.kind(reading.skip(follows, 1)) in RELATIONS
    if end == "or":
        if has_number and "or" not in joints:
            return "wanted"
        is_parallel = not has_article or (not head.is_no and (head.has_article or joints == {"or"}))
        return "refused" if head.is_sure and is_parallel and not has_number and not gap.is_odd else "doubtful"
    if is_definite or is_subject:
        return "wanted"
    if "and" in joints:
        return "wanted" if head.is_no and (has_number or has_article or is_related) else "doubtful"
    if has_number or is_related or head.is_exchange:
        return "wanted"
    if head.is_no:
        return "wanted" if has_article or (end != "and" and head.item is not None and head.is_listed) else "doubtful"
    return "doubtful"


def _closing(reading: Reading, place: int) -> str:
    """How a list with commas ends: "or", "and", or empty."""
    for _ in range(_MOST_MEMBERS):
        start = reading.skip(place, 1, _JOINTS)
        kinds = {reading.kind(each) for each in range(place, start)}
        gap = _gap(reading, start)
        if not kinds or gap.has(_CLAUSE | _CONTRAST) or gap.place == start == len(reading.phrases):
            return ""
        if kinds & {"or", "and"}:
            return "or" if "or" in kinds else "and"
        if gap.item is None and (gap.place == start or reading.kind(gap.place) not in _JOINTS):
            return ""
        place = gap.item.last + 1 if gap.item is not None else gap.place
    return ""


# ------------------------------------------------------------------------------------ words that stand behind the room


def _refuse_before(reading: Reading, index: int) -> None:
    """The room before "-free", "is missing", "없는", "대신", and the rooms that an enumeration joins to it from the
    left."""
    place, is_sure = index - 1, reading.kind(index) in ("none-after", "free-after")
    while reading.item_at(place) is None:
        word, kind = _words(reading, place), reading.kind(place)
        if kind not in ("filler", "other", "doubt", "all", "who") or word in _WHOLE:
            return
        is_sure &= word in _PARTICLES or word in _KOREAN_ADVERBS
        if word.startswith(("필요", "공간")):
            is_sure = False
        place -= 1
    item = reading.item_at(place)
    assert item is not None
    if reading.kind(index) == "free-after":
        is_sure = item.last == index - 1 and _is_glued(reading, index)
    is_sure &= item.count is None and not item.ids and not _is_about_room(reading, index, item)
    if is_sure:
        _refuse(reading, item, item.first, index)
    else:
        _doubt(item)
    _refuse_joined(reading, index, item, is_sure)


def _is_of_subject(reading: Reading, index: int) -> bool:
    """Whether "not" refuses the rooms before it, and not a relation of theirs: "a balcony is not wanted by us"."""
    place = index + 1
    while reading.item_at(place) is None and reading.kind(place) in ("filler", "other", "doubt", "all"):
        if _words(reading, place) in _CONTRAST:
            return True
        place += 1
    if reading.kind(place) == "near":
        place = reading.skip(place + 1, 1)
        if _words(reading, place) in _CONTRAST:
            return True
    return reading.item_at(place) is None and reading.kind(place) in ("stop", "comma", "and")


def _is_glued(reading: Reading, index: int) -> bool:
    """Whether a suffix is attached to its word, directly or by a hyphen."""
    start = reading.tokens[reading.phrases[index].first].start
    return start > 0 and (reading.text[start - 1] in HYPHENS or reading.text[start - 1].isalnum())


def _is_about_room(reading: Reading, index: int, item: Item) -> bool:
    """Whether another room lacks it: "a balcony-free bedroom", "주방에는 발코니가 없다", "발코니가 없는 침실"."""
    behind = index + 1
    is_adjective = reading.kind(index) == "free-after" or _words(reading, index).endswith(("는", "던"))
    if is_adjective and reading.kind(behind) not in ("stop", "comma") and _words(reading, behind) not in _WHOLE:
        return True
    before = item.first - 1
    while _words(reading, before) in _PARTICLES:
        before -= 1
    if reading.kind(index) == "free-after":
        return reading.kind(before) in ("none", "not")
    word = _words(reading, before)
    is_room = reading.item_at(before) is not None or reading.kind(before) in RELATIONS
    return is_room or (reading.kind(before) == "other" and word not in _WHOLE and word.endswith(tuple(_PARTICLES)))


def _refuse_joined(reading: Reading, index: int, item: Item, is_sure: bool) -> None:
    """The members of an enumeration before a room that a word after it refuses."""
    is_list = reading.kind(index) in ("none-after", "not-after") and _value(reading, index) not in EXCHANGED
    is_list &= not _value(reading, index).isascii()  # in English the last "and" shows it
    while True:
        end = item.first - 1
        while reading.kind(end) == "filler" and _words(reading, end) in (*_ARTICLES, *_PARTICLES):
            end -= 1
        while reading.kind(end) == "other":
            end -= 1
        while reading.kind(end) == "filler" and _words(reading, end) in _ARTICLES:
            end -= 1
        start = reading.skip(end, -1, _JOINTS)
        joints = {reading.kind(place) for place in range(start + 1, end + 1)}
        while _words(reading, start) in _PARTICLES:
            start -= 1
        before = reading.item_at(start)
        if before is None or not joints or before is item:
            return
        has_number = before.count is not None or bool(before.ids)
        is_list |= bool(joints & {"and", "or"})
        if joints == {"comma"} and (has_number or not is_list):
            return
        is_korean = reading.kind(index) == "none-after"
        if is_sure and is_korean and "comma" not in joints and not has_number:
            _refuse(reading, before, before.first, start)
        else:
            _doubt(before)
            is_sure = False
        item = before
