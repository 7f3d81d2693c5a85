"""Find the image that a file's name nearly is: `img-0.txt` for `IMG_0.jpg`, `captions/a.txt` for `images/a.jpg`.

In: the names of the images of a folder. Out: for the name of another file, the image it belongs to by its exact stem, or by
its words and numbers only; and the flags that make a layout of two folders join the two.
"""

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import PurePosixPath

from loraloom.utils.listing import IMAGE_SUFFIXES, name_key, split_name

_COPY = re.compile(
    r"(?<=[\w)\]])[\s_-]*[(\[]?(?<![^\W_])(?:copy|kopie|copie|copia|복사본|コピー|副本)(?![^\W_])[\s_]*(?:\(?\d+)?[)\]]?"
)
"""What systems add to the name of a copy: `a (copy)`, `a - Copy (2)`, `a_copy`."""
_WORDS = re.compile(r"\d+|[^\W\d_]+")
_NOTES = re.compile(
    r"(?:read[ _-]?me|licen[cs]es?|copying|copyright|notices?|notes?|credits?|authors?|contributors?|change[ _-]?log"
    r"|attributions?|sources?|infos?|about|to[ _-]?do|terms|citations?|urls?|links?|index|contents?|classes|labels"
    r"|requirements|history|description|disclaimer|metadata|train|val|valid|validation|test|list|filelist|log)(?![^\W\d_])"
)
_MOST_COMPARED = 1000
_NEAR = 0.75


def loose_key(stem: str) -> str:
    """The words and numbers of a name: `IMG_0`, `img-00` and `img 0 (copy)` have one key. Empty when it has none."""
    text = _COPY.sub(" ", unicodedata.normalize("NFKC", stem).casefold())
    return " ".join(word.lstrip("0") or "0" if word.isdecimal() else word for word in _WORDS.findall(text))


def is_note_name(name: str) -> bool:
    """Whether a file is by its name a note about a folder, such as `README.txt` or `LICENSE-MIT.txt`."""
    return _NOTES.match(_last_stem(name)) is not None


class ImageNames:
    """Images of a folder, found by the names of files that may belong to them.

    Args:
        names: Paths below the folder, `/` between parts.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact: dict[str, list[str]] = {}
        self._loose: dict[str, list[str]] = {}
        self.number = 0
        for self.number, name in enumerate(names, start=1):
            self._exact.setdefault(_last_stem(name), []).append(name)
            if key := loose_key(_last_stem(name)):
                self._loose.setdefault(key, []).append(name)

    def exact(self, name: str) -> str | None:
        """The image whose name is this file's but for the suffix, or for one more suffix; one in its folder first."""
        stem = _last_stem(name)
        return self._first(self._exact, name, (stem, _last_stem(stem)))

    def near(self, name: str) -> str | None:
        """The image with the same words and numbers in its name, whatever stands between them."""
        stem = _last_stem(name)
        keys = [loose_key(stem)]
        if split_name(stem)[1] in IMAGE_SUFFIXES:
            keys.append(loose_key(split_name(stem)[0]))
        return self._first(self._loose, name, keys)

    def longer(self, name: str) -> str | None:
        """The image whose name this file's name begins with, a word after it: `a_caption.txt` for `a.jpg`."""
        begin = re.fullmatch(r"(.+?)[-_.][^\W\d_]+(?:[-_.][^\W\d_]+)*", _last_stem(name))
        return self._first(self._exact, name, [begin[1]]) if begin else None

    def similar(self, name: str) -> str | None:
        """The image with the most similar name among the first thousand; None when none is similar."""
        known = list(self._loose)[:_MOST_COMPARED]
        found = get_close_matches(loose_key(_last_stem(name)), known, 1, _NEAR)
        return self._loose[found[0]][0] if found else None

    def _first(self, by_key: dict[str, list[str]], name: str, keys: Iterable[str]) -> str | None:
        found = next((by_key[key] for key in keys if key in by_key), [])
        folder = PurePosixPath(name).parent
        return next((image for image in found if PurePosixPath(image).parent == folder), found[0] if found else None)


def folder_flags(text: str, image: str) -> str | None:
    """Flags that join a text and an image of the same stem in two folders; None where one folder holds both.

    Args:
        text: Path of the text below the source.
        image: Path of the image below the source.
    """
    here, there = list(PurePosixPath(text).parts[:-1]), list(PurePosixPath(image).parts[:-1])
    if here == there:
        return None
    while here and there and here[0] == there[0]:
        del here[0], there[0]
    while here and there and here[-1] == there[-1]:
        del here[-1], there[-1]
    return f"--text-folder {_quoted(here)} --image-folder {_quoted(there)}"


def added_ending(text: str, image: str) -> str | None:
    """What the name of a text has after its image's stem, such as `_caption.txt`; None when it is no ending of captions."""
    stem, last = name_key(split_name(image)[0].rpartition("/")[2]), name_key(text.rpartition("/")[2])
    ending = last[len(stem) :]
    return ending if last.startswith(stem) and re.fullmatch(r"[-_.]\S+\.\S+", ending) else None


def _quoted(parts: list[str]) -> str:
    name = "/".join(parts) or "."
    return f'"{name}"' if re.search(r"[^\w./+-]", name) else name


def _last_stem(name: str) -> str:
    return name_key(split_name(name)[0].rpartition("/")[2]).casefold()
