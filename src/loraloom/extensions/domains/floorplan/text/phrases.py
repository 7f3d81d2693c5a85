"""The words people use for plans, as a table: rooms, numbers, directions, doors; English, and Korean where plain rules
reach.

In: free text. Out: its tokens and the phrases among them, each with a kind and a value. `words.py` interprets their
order.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..vocabulary import OFFSETS


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a number or a sign: `text[start:end]` in lower case. A Korean particle is a token of its own."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Phrase:
    """Tokens `first` .. `last` with one common meaning.

    Attributes:
        kind: `room`, `number`, `counted`, `id`, `ordinal`, `none`, `all`, `direction`, `door`, `doors`, `between`,
            `ensuite`, `near`, `not`, `doubt`, `unit`, `and`, `or`, `who`, `comma`, `stop`, `filler`, `other`; for
            words that come after their rooms, `direction-after`, `door-after`, `none-after`, `not-after`, and
            `free-after` for "-free" and "-less".
        value: Room type, direction or number as text; else the phrase itself.
        first, last: Token indices, both inclusive.
    """

    kind: str
    value: str
    first: int
    last: int


_ENGLISH_ROOMS = {
    "living room": r"living(?: (?:rooms?|area|hall|space))?|lounges?|(?:sitting|family|drawing) rooms?|parlou?rs?",
    "master room": r"(?:master|main|primary|principal) (?:bed ?)?rooms?|master(?: suites?)?",
    "kitchen": r"kitchens?|kitchenettes?",
    "bathroom": r"bath ?rooms?|baths?|toilets?|wcs?|w c|wash ?rooms?|rest ?rooms?|(?:shower|powder) rooms?|lavator(?:y|ies)",
    "bedroom": r"bed ?rooms?"
    r"|common rooms?|(?:guest|spare|study|child|child's|children's|children|kid|kids|kid's|sleeping)(?: ')? (?:bed ?)?rooms?"
    r"|nurser(?:y|ies)|(?:(?<=\d )|(?<=two )|(?<=three )|(?<=four ))beds?",
    "balcony": r"balcon(?:y|ies)|terraces?|verandahs?|verandas?|loggias?",
    "storage": r"storages?(?: rooms?)?|stores?|store ?rooms?|closets?|pantr(?:y|ies)|larders?|(?:utility|box) rooms?",
    "entrance": r"(?:entrances?|entry|entries)(?: halls?)?|entryways?|foyers?|hallways?|vestibules?|lobb(?:y|ies)",
}
_LOOSE_NAMES = re.compile(
    r"(?:common|study|family|drawing|utility|box) rooms?|living hall|terraces?|closets?|pantr(?:y|ies)|larders?|stores?"
    r"|hallways?|lobb(?:y|ies)|팬트리"
)
"""Names of rooms that may mean another type than the one that is assumed."""
_KOREAN_ROOMS = {
    "living room": "거실",
    "master room": "안방|큰방",
    "kitchen": "주방|부엌",
    "bathroom": "욕실|화장실",
    "bedroom": "침실|작은방|방",
    "balcony": "발코니|베란다",
    "storage": "창고|팬트리",
    "entrance": "현관",
}
_NUMBERS = {
    1: "one|single|한|하나",
    2: "two|두|둘",
    3: "three|세|셋",
    4: "four|네|넷",
    5: "five|다섯",
    6: "six|여섯",
    7: "seven|일곱",
    8: "eight|여덟",
    9: "nine|아홉",
    10: "ten|열",
}
_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_LARGE_NUMBERS = {word: number for number, word in enumerate(_TEENS, 11)} | {
    f"{ten} {one}".strip(): 10 * number + more
    for number, ten in enumerate(_TENS, 2)
    for more, one in enumerate(["", *_ONES])
}
"""11 .. 99 in English words."""

_ORDINALS = {
    1: "first|첫|첫째",
    2: "second|둘째",
    3: "third|셋째",
    4: "fourth|넷째",
    5: "fifth",
    6: "sixth",
    7: "seventh",
    8: "eighth",
    9: "ninth",
    10: "tenth",
}
_SIDES = {
    "left": "left|western|west|왼쪽|왼편|좌측|서쪽",
    "right": "right|eastern|east|오른쪽|오른편|우측|동쪽",
    "above": "above|over|atop|upper|top|northern|north|위쪽|위|윗쪽|상단|북쪽",
    "below": "below|underneath|under|beneath|lower|bottom|southern|south|아래쪽|아래|밑|하단|남쪽",
}
_SIGNS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
_ALONE = re.compile("above|over|atop|below|under|underneath|beneath")
"""Words of place that require no "of" after them."""

_SIDE = "(?:" + "|".join(f"(?:{words})" for words in _SIDES.values()) + ")"
_CORNERS = "(?:north|south)(?:east|west)(?:ern)?|[북남][동서]쪽?|[동서][북남]쪽?|[좌우][상하]단?"
_DIRECTION = re.compile(
    rf"(?:(?:to|on|at|in|towards?) )?(?:the )?(?P<core>{_CORNERS}|{_SIDE}(?:(?: of)? and (?:to )?(?:the )?{_SIDE}| {_SIDE})?)"
    r"(?: hand)?(?: (?:side|corner|part|end))?(?P<of> (?:of|from|to)\b)?(?!\S)"
)
_KOREAN_DIRECTION = re.compile(r"[가-힣]")

_BATH = r"(?:bath ?rooms?|baths?|toilets?|wcs?|shower rooms?)"
_VERB = (
    r"(?:connect(?:ed|s|ing)?|link(?:ed|s|ing)?|join(?:ed|s|ing)?|open(?:s|ed|ing)?|lead(?:s|ing)?|attached|access(?:ible)?"
    r"|reach(?:ed|able)|entered|doors?)"
)
_OTHERS: Mapping[str, str] = {
    "id": r"(?:#|№|number|no(?: \.)?) (?P<value>\d{1,3})",
    "counted": rf"(?P<value>\d{{1,2}}|{'|'.join(words for words in _NUMBERS.values())}) 개",
    "none": r"no need (?:of|for)(?: (?:any|a|an))?|zero|none|(?:no|without|with out|w / (?:o|out)|sans|missing|minus|devoid of"
    r"|lack(?:s|ed|ing)?(?: of)?|free (?:of|from)|absence of|there (?:is|are) (?:not|no)|there (?:isn't|aren't)"
    r"|(?:does not|doesn't) (?:have|contain|include))(?: (?:any|a single|a|an)(?= ))?",
    "none-after": "없(?:다|고|는|음|이|습니다|으며|어요|어|네요|던|게|도록|지만|는데|을|었다|었고)?",
    "all": r"all|both|each|every",
    "door": rf"{_VERB} (?:in)?(?:to|onto|into|on to|with|from)|doors? leading to|연결되는 문",
    "doors": r"(?:connected|linked|joined)(?: (?:to|with) (?:each other|one another))?",
    "between": r"(?:doors?|connections?|passages?|openings?) between|connect|link|join",
    "door-after": "(?:연결|이어|통)(?:된|된다|되고|되며|되어|돼|됨|됩니다|한다|하고|하며|합니다|진다|지고|집니다|져)?",
    "ensuite": rf"en ?suites?(?: {_BATH})?|(?:master|primary|attached|private) {_BATH}",
    "near": r"next to|adjacent to|adjoin(?:s|ing)?|beside|near(?: to)?|close to|by|along(?:side)?|border(?:s|ing)?|between"
    r"|neighbou?r(?:s|ing)?|facing|faces|opposite|across from|inside|within|behind|in front of|옆|근처|인접|맞은편|사이",
    "not": r"not|never|isn't|aren't|don't|doesn't|can't|cannot|[a-z]+n't|hardly|nor|neither|unless|except(?: for)?|if|maybe"
    r"|(?:do|does|did|is|are|was|has|have|would|should|could|wo|ca|must|need)nt|perhaps|rather(?: than)?|avoid(?:s|ing)?|non"
    r"|(?:instead|in place|in lieu)(?: of)?|excluding|excludes?|omit(?:s|ting)?|skip|remove|drop|ban|forgo|leav(?:e|ing) out"
    r"|apart from|aside from|other than|nobody|no one|nothing|rid of|barring|(?:everything|anything|all) but|save for|fails?"
    r"|refuses?|hates?|dislikes?|rejects?|scarcely|barely"
    "|않[가-힣]*|안|못|마(?:세요|라|시오|십시오)?|말(?:아|것|라)[가-힣]*",
    "not-after": "아니(?:다|고|며|라|면|에요|예요|지만)?|아닌|아님|아닙니다|말고|대신(?:에|하여|해)?|제외[가-힣]*"
    "|빼[가-힣]*|뺀|뺄|금지[가-힣]*|불필요[가-힣]*|생략[가-힣]*|미포함|싫[가-힣]*|필요없[가-힣]*|없[가-힣]+"
    "|absent|omitted|excluded|removed|left out|dropped|unneeded|unnecessary|unwanted|undesired|superfluous|forbidden|banned"
    "|ruled out|out of the question",
    "doubt": r"(?:at|the) (?:least|most)|(?:(?:no|not) )?(?:more|less|fewer|greater|larger) than|(?:a )?(?:min|max)(?:imum)?"
    r"|up to|or (?:more|so|less|fewer)|about|around|approx(?:imately)?|roughly|circa|nearly|almost|some|several"
    r"|(?:a )?(?:few|couple)|many|plenty|multiple|various|any|half|quarter|dozens?|hundreds?|thousands?|millions?|[~≈±≥≤<>]"
    r"|약|대략|최소|최대|적어도|많아야|이상|이하|미만|초과|정도|쯤|한두|두세|두서너|서너|몇|여러|절반|백|천",
    "unit": r"m ?2|m²|㎡|c?m|mm|sq ?m|(?:sq|square) (?:m|met(?:er|re)s?|f(?:oo|ee)?t)|sqft|ft(?: 2)?|met(?:er|re)s?|feet|평",
    "and": r"and(?: also)?|&|plus|as well as|와|과|랑|이랑|하고|및|그리고",
    "or": "or|또는|이나|혹은",
    "who": "which|that",
    "comma": r"[,/:()\[\]|\u2013\u2014-]",
    "stop": r"[.;!?。\n]",
}

_FILLERS = """
a an the to is are be was were has have having with of there in it's its i we you want would like need please give me us
draw make design create show put place let plan plans floorplan floor flat apartment house home should must shall can
will may located situated placed positioned lies lie sits stands goes go found directly just immediately also then so
containing contains contain includes include including consisting consists comprising featuring
은 는 이 가 을 를 의 에 에서 에는 로 으로 도 만 있다 있고 있는 있습니다 있으며 있음 있어 위치 한다
하고 다 집 아파트 평면도 개 문 서로
' " \u2018 \u2019 \u201c \u201d * \u2022 # = x +
"""
FILLERS = frozenset(_FILLERS.split())
"""Words that ask for nothing by themselves: only these may be left over without being reported."""

EXCHANGED = ("말고", "대신", "대신에", "대신하여", "대신해", "빼고")
"""Words between a refused and a wanted room."""

PLURAL_VERBS = frozenset(["are", "both", "all", "connect", "open", "lead", "were", "each", "have", "lie"])

_KOREAN_STEM = "|".join(
    sorted(
        {
            word
            for words in (*_KOREAN_ROOMS.values(), *_NUMBERS.values(), *_ORDINALS.values(), *_SIDES.values())
            for word in words.split("|")
            if _KOREAN_DIRECTION.match(word)
        },
        key=len,
        reverse=True,
    )
)
_KOREAN_PARTICLE = "이랑|하고|으로|에서|에는|에|은|는|이|가|을|를|과|와|랑|의|로|도|만|및|개|쪽"
_KOREAN_WORD = re.compile(
    rf"(?P<stem>{_CORNERS}|{_KOREAN_STEM}|{_OTHERS['door-after']}|{_OTHERS['none-after']}|옆|근처|사이|위치|번째|개(?=(?:{_KOREAN_PARTICLE})?$))"
    rf"(?P<particle>{_KOREAN_PARTICLE})?"
)
_TOKEN = re.compile(r"\n|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d+(?:st|nd|rd|th)\b|\d+(?:[.,]\d+)*|\S")
_ROOM_NAME = re.compile("|".join(_ENGLISH_ROOMS.values()))
HYPHENS = "-_\u2010\u2011"


def _alternatives() -> Iterator[tuple[str, str, re.Pattern[str]]]:
    """Kind, value (empty: the group of that name, else the phrase itself) and pattern of every row of the table."""
    for rooms in (_ENGLISH_ROOMS, _KOREAN_ROOMS):
        for room, words in rooms.items():
            yield "room", room, re.compile(rf"(?:{words})(?!\S)")
    for number, words in _NUMBERS.items():
        yield "number", str(number), re.compile(rf"(?:{words})(?!\S)")
        yield "ordinal", str(number), re.compile(rf"(?:{words}) 번째(?!\S)")
    for number, words in _ORDINALS.items():
        yield "ordinal", str(number), re.compile(rf"(?:{words})(?: 번째)?(?!\S)")
    large = "|".join(sorted(_LARGE_NUMBERS, key=len, reverse=True))
    yield "number", "", re.compile(rf"(?P<value>\d{{1,2}}|{large})(?!\S)")
    yield "ordinal", "", re.compile(r"(?P<value>\d{1,3})(?:st|nd|rd|th)(?!\S)")
    for kind, words in _OTHERS.items():
        yield kind, "", re.compile(rf"(?:{words})(?!\S| $)" if kind != "stop" else words)


_TABLE = tuple(_alternatives())


def is_loose_name(words: str) -> bool:
    """Whether a room is taken as the nearest of the known types: a common room as a bedroom."""
    return _LOOSE_NAMES.fullmatch(" ".join(words.lower().replace("-", " ").split())) is not None


def number_of(word: str) -> int:
    """A number's value: digits or the table's words."""
    if word in _LARGE_NUMBERS:
        return _LARGE_NUMBERS[word]
    return int(word) if word.isdecimal() else next(n for n, words in _NUMBERS.items() if word in words.split("|"))


def tokens_of(text: str) -> list[Token]:
    """Words, numbers and signs; a hyphen within a word is no token, and Korean particles are separated from their
    words."""
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if match[0] in HYPHENS and start > 0 and end < len(text) and (text[start - 1] + text[end]).isalnum():
            continue
        if match[0].lower().endswith("less") and _ROOM_NAME.fullmatch(match[0][:-4].lower()):  # "kitchenless"
            found += [Token(start, end - 4, match[0][:-4].lower()), Token(end - 4, end, "less")]
            continue
        found += _korean(text, start, end) or [Token(start, end, match[0].lower().replace("\u2019", "'"))]
    return found


def _korean(text: str, start: int, end: int) -> list[Token]:
    """A Korean word as stems and particles; empty when the table does not cover all of it."""
    parts: list[Token] = []
    place = start
    while place < end:
        match = _KOREAN_WORD.match(text, place, end)
        if not match or match.end() == place:
            return []
        for group in ("stem", "particle"):
            if match[group]:
                parts.append(Token(*match.span(group), match[group]))
        place = match.end()
    return parts


def phrases_of(tokens: list[Token]) -> list[Phrase]:
    """The tokens as phrases, from left to right, the longest first; every token is in exactly one."""
    line = " ".join(token.text for token in tokens)
    places: dict[int, int] = {}
    at = 0
    for index, token in enumerate(tokens):
        places[at] = index
        at += len(token.text) + 1
    places[at] = len(tokens)
    found: list[Phrase] = []
    at = 0
    while at < len(line):
        first = places[at]
        kind, value, end = _longest(line, at)
        if end + 1 not in places:  # nothing of the table begins here
            end = at + len(tokens[first].text)
            word = tokens[first].text
            kind, value = ("filler" if word in FILLERS else "other"), word
        if kind == "other" and value in ("free", "less") and found and found[-1].kind == "room":
            kind = "free-after"
        found.append(Phrase(kind, value, first, places[end + 1] - 1))
        at = end + 1
    return found


def _longest(line: str, at: int) -> tuple[str, str, int]:
    best = ("", "", -2)
    for kind, value, pattern in _TABLE:
        match = pattern.match(line, at)
        if match and match.end() > best[2]:
            best = kind, value or str(match.groupdict().get("value") or match[0]), match.end()
    match = _DIRECTION.match(line, at)
    if match and match.end() > best[2] and (word := _word(match)):
        best = "direction-after" if _KOREAN_DIRECTION.match(match["core"]) else "direction", word, match.end()
    return best


_SHORT = {
    "북": "above",
    "상": "above",
    "남": "below",
    "하": "below",
    "동": "right",
    "우": "right",
    "서": "left",
    "좌": "left",
}


def _word(match: re.Match[str]) -> str | None:
    """The direction of a match, or None when its parts do not form one or an "of" is missing."""
    core = match["core"]
    korean = _KOREAN_DIRECTION.match(core) is not None
    if re.fullmatch(_CORNERS, core):
        sides = [_SHORT[sign] for sign in core[:2]] if korean else re.findall("north|south|east|west", core)
    else:
        sides = [part for part in core.split() if part not in ("and", "of", "to", "the")]
    signs = [_SIGNS[name] for side in sides for name, words in _SIDES.items() if side in (name, *words.split("|"))]
    x, y = sum(sign[0] for sign in signs), sum(sign[1] for sign in signs)
    alone = korean or match["of"] or _ALONE.fullmatch(sides[-1])
    return next((word for word, offset in OFFSETS.items() if offset == (x, y)), None) if alone else None
