"""Images with a text of the same name in the same folder: `dog.jpg` with `dog.txt`, `dog.caption` or `dog.jpg.txt`.

In: a folder; the options `caption_suffix` (tried before `.txt` and `.caption`) and `encoding`. Out: one source item per
image; without a text its caption is None. A text without an image and a second text of an image are reported.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loraloom.extensions.formats._common import ByName, caption_suffixes, listed, read_text, sorted_unique
from loraloom.protocols.contracts import FormatContract, SaveImage
from loraloom.protocols.data import Format, SourceItem
from loraloom.protocols.settings import CaptionFiles
from loraloom.utils.counted import counted
from loraloom.utils.listing import Entry, name_key, near_table_name

_OTHER_CASE = "the name of its text differs in upper and lower case"
_SHOWN_ENDINGS = 4


class Sidecar:
    """The `sidecar` layout."""

    name = "sidecar"
    settings = CaptionFiles
    expects = "images, each with a .txt or .caption of the same name beside it (dog.jpg, dog.txt); it may be missing"
    priority = 10

    def sniff(self, folder: Path, options: Mapping[str, Any]) -> str | None:
        """The number of images, and of images with a text."""
        entries = listed(folder)
        images = [entry for entry in entries if entry.is_image]
        if not images:
            return None
        texts = _Texts(entries, options)
        found = [_ending(image, hits[0][0]) for image in images if (hits := texts.of(image))]
        endings = sorted(set(found)) or [".txt"]
        which = f"a {endings[0]} of the same name"
        if len(endings) > 1 or not endings[0].startswith(".") or endings[0].count(".") > 1:
            shown = endings if len(endings) <= _SHOWN_ENDINGS else [*endings[: _SHOWN_ENDINGS - 1], "others"]
            which = f"a text: {', '.join(shown[:-1])}{' or ' * (len(shown) > 1)}{shown[-1]} after the image's name"
        return f"{counted(len(images), 'image')}, {len(found):,} with {which}"

    def read(self, folder: Path, options: Mapping[str, Any]) -> Iterator[SourceItem]:
        """All images below `folder` and all texts without one."""
        entries = listed(folder)
        texts = _Texts(entries, options)
        images = [entry for entry in entries if entry.is_image]
        items: list[SourceItem] = []
        used: set[str] = set()
        second: dict[str, SourceItem] = {}
        for entry in images:
            found = texts.of(entry)
            items.append(_item(entry, found[0] if found else None, options))
            used |= {text.name for text, _ in found[:1]}
            second |= {
                text.name: SourceItem(
                    id=text.stem,
                    image=text.path,
                    caption=None,
                    problem=f"a second text of {entry.path.name}: {found[0][0].path.name} is read",
                )
                for text, _ in found[1:]
            }
        items += [item for name, item in second.items() if name not in used]
        image_folders = {_folder(entry) for entry in images}
        items += [
            SourceItem(
                id=entry.stem, image=entry.path, caption=None, problem="a text without an image of the same name"
            )
            for entry in texts.all
            # A text in a folder with images lacks its image; in a folder without images it is a note.
            if entry.name not in used and entry.name not in second and _folder(entry) in image_folders
        ]
        yield from sorted_unique(items)


class _Texts:
    """The captions of a folder, found by the name of their image."""

    def __init__(self, entries: list[Entry], options: Mapping[str, Any]) -> None:
        self._suffixes = caption_suffixes(options)
        endings = tuple(suffix.lower() for suffix in self._suffixes)
        self.all = [
            entry
            for entry in entries
            if entry.name.lower().endswith(endings)
            and not (entry.is_image or entry.system or entry.name.endswith("/") or near_table_name(entry.name))
        ]
        self._by_name = ByName((f"{entry.stem}{entry.suffix}", entry) for entry in self.all)

    def of(self, image: Entry) -> list[tuple[Entry, bool]]:
        """All texts of one image in order of precedence, each with whether its name differs in case."""
        names = [f"{base}{suffix}" for suffix in self._suffixes for base in (image.stem, image.name)]
        found = [hit for name in names if (hit := self._by_name.find(name)) is not None]
        return list({entry.name: (entry, other_case) for entry, other_case in reversed(found)}.values())[::-1]


def _ending(image: Entry, text: Entry) -> str:
    """The part of a text's name after its image's stem, in lower case: `.txt`, `.jpg.txt` or `_tags.txt`."""
    stem, name = name_key(image.stem).casefold(), name_key(text.name).casefold()
    return name.removeprefix(stem) if name.startswith(stem) else text.suffix


def _folder(entry: Entry) -> str:
    return entry.name.rpartition("/")[0]


def _item(image: Entry, hit: tuple[Entry, bool] | None, options: Mapping[str, Any]) -> SourceItem:
    caption, problem = None, image.problem
    if hit is None:
        return SourceItem(id=image.stem, image=image.path, caption=None, problem=problem)
    text, other_case = hit
    if problem is None:
        if text.problem:
            problem = f"its text {text.path.name}: {text.problem}"
        else:
            caption, problem = read_text(text.path, options.get("encoding", ""))
    notes = (_OTHER_CASE,) if other_case else ()
    return SourceItem(id=image.stem, image=image.path, caption=caption, problem=problem, source=text.path, notes=notes)


FORMAT: Format = Sidecar()


def _write(folder: Path, captions: Mapping[str, str], save_image: SaveImage) -> None:
    for item_id, caption in captions.items():
        save_image(folder / f"{item_id}.png")
        (folder / f"{item_id}.txt").write_text(caption, encoding="utf-8", newline="")


CONTRACT = FormatContract(write=_write)
