"""Make the font of plan labels: a subset of Noto Sans CJK with the letters of labels.

In: `NotoSansCJK-Regular.ttc` and `NotoSansCJK-Bold.ttc` (Debian `fonts-noto-cjk`, SIL Open Font License 1.1), fontTools.
Out: `src/loraloom/assets/fonts/labels-{regular,bold}.otf`. Run it when a label has a letter that the font lacks:

    uv run --with fonttools scripts/subset_font.py /usr/share/fonts/opentype/noto

The licence is beside the fonts. It reserves the name "Source" for Adobe; these fonts are named "Loraloom Labels".
"""

import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

from loraloom.extensions.domains.floorplan.render.lettering import LANGUAGES

TARGET = Path(__file__).parents[1] / "src" / "loraloom" / "assets" / "fonts"
KOREAN_FACE = 1
"""Index of Noto Sans CJK KR in the collection."""
FAMILY = "Loraloom Labels"


def letters() -> str:
    """Latin 1, some punctuation, and the letters of the labels."""
    latin = [chr(code) for code in (*range(0x20, 0x7F), *range(0xA0, 0x100))]
    return "".join([*latin, "–—‘’“”…", *(word for words in LANGUAGES.values() for word in words.values())])  # noqa: RUF001


def subset(source: Path, weight: str) -> Path:
    """Write the subset of one weight; returns its file."""
    options = Options()
    options.layout_features = ["kern"]
    options.hinting = False
    options.desubroutinize = True
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 13, 14]
    options.notdef_outline = True
    made = TTFont(source / f"NotoSansCJK-{weight}.ttc", fontNumber=KOREAN_FACE, recalcTimestamp=False)
    subsetter = Subsetter(options)
    subsetter.populate(text=letters())
    subsetter.subset(made)
    names = {
        1: FAMILY,
        3: f"{FAMILY} {weight}, from Noto Sans CJK KR",
        4: f"{FAMILY} {weight}",
        6: f"LoraloomLabels-{weight}",
    }
    for number, name in names.items():
        made["name"].setName(name, number, 3, 1, 0x409)
    top = made["CFF "].cff
    top.fontNames = [names[6]]
    top[0].FullName, top[0].FamilyName = names[4], FAMILY
    file = TARGET / f"labels-{weight.lower()}.otf"
    TARGET.mkdir(parents=True, exist_ok=True)
    made.save(file)
    return file


if __name__ == "__main__":
    for each in ("Regular", "Bold"):
        written = subset(Path(sys.argv[1]), each)
        print(f"{written}: {written.stat().st_size:,} bytes")
