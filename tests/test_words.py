"""The words of this project: plain technical English in pages, docstrings, comments, help and error texts.

`WORDS` is the right-hand column of the design's list of words, as regular expressions. Code between backticks is not
prose and is not checked.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "loraloom"
DOCS = ROOT / "docs"

MAX_README_LINES = 120
MAX_COLUMNS = 100

WORDS: dict[str, tuple[str, ...]] = {
    "image": (r"pictur(?:es?|ed)",),
    "prompt embedding": (
        r"(?:text|encoder(?:'?s)?|prompt(?:'?s)?) states",
        r"what (?:the |an? )?(?:text )?encoders? (?:said|says?)",
    ),
    "expanded prompt, expand; otherwise said, distinguished": (r"told", r"fill(?:s|ed|ing)?[ -]in"),
    "TrainState, train_step, flush_metrics": (r"trainees?", r"takes? a step", r"settle[sd]?", r"settling"),
    "bucket batch sampler, micro-batch, slot": (
        r"(?:batch|epoch|step|sampling) plans?",
        r"plan's (?:slots?|pass(?:es)?|shares?)",
    ),
    "weight, loss weight, count": (r"weigh(?:s|ed|ing)?(?! [\d.]+ [kMG]i?B)",),
    "precompute": (
        r"filling",
        r"fill(?:s|ed)? (?:the |a )?caches?",
        r"caches? (?:is|are|was|were)? ?filled",
    ),
    "merge, unmerge, scale": (
        r"fold(?:s|ing)? (?:in|into|them|it|adapters?)",
        r"folded",
        r"renew(?:s|ed|ing)?",
        r"how much (?:it|each|an adapter) counts",
    ),
    "load, inject, detach": (
        r"put(?:s|ting)? (?:a |the |an )?(?:(?:LoRAs?|adapters?)(?: layers)? )?on",
        r"(?:take|takes|taken|taking|took) off",
    ),
    "inpaint, inpaint region, mask": (
        r"redraw(?:s|n|ing)?",
        r"held (?:region|pixels|part|area)s?",
        r"(?:is|are) held(?![ -]out| in| by| at| back| to| for)",
    ),
    "non-finite, overflow": (r"poison(?:s|ed|ing)?",),
    "key format": (r"spell(?:s|ed|ing|ings)?", r"spelt", r"exchange[ _]names?"),
    "reference implementation, other trainers": (r"peers?(?!-to-peer)",),
    "intervals, actions after a step": (r"(?:what|that) falls? due", r"(?:is|are) due(?! to)", r"due (?:now|after|at)"),
    "resume, continue": (r"go(?:es|ing|ne)? on", r"went on"),
    "required, overrides, default, duplicate key": (
        r"(?:is|are|fields?|flags?|options?) needed",
        r"go(?:es)? before",
        r"stands? twice",
    ),
    "verifier, verify, verdict": (r"judg(?:es?|ed|ing|e?ments?)", r"tellers?"),
    "dataset generator": (r"artists?",),
    "generate, sample (diffusion); render (PIL); synthesize (datasets)": (r"draw(?:s|n|ings?)?", r"drew"),
    "rng, random number, chance level": (r"chances?(?! levels?)",),
    "orientation, fine-tune, freeze, thin structures": (
        r"layings?",
        r"louder",
        r"at rest",
        r"rest(?:s|ed)",
        r"faint things",
    ),
    "N, of N": (r"so many",),
    "train, fine-tune": (r"teach(?:es|ing)?", r"taught"),
    "a plain statement": (r"stands? ready", r"by (?:such )?luck"),
}
"""What to write -> the words that are not used instead, as regular expressions of whole words, in any case."""

ALLOWED_IN_SOURCE = {
    ("extensions/domains/scenes/captions.py", "picture"): "captions that the built-in base was trained on",
    ("extensions/domains/scenes/captions.py", "drawing"): "the same",
    ("extensions/domains/floorplan/text/phrases.py", "draw"): "what users write",
    ("extensions/domains/floorplan/text/phrases.py", "drawing"): "the same, as in drawing room",
    ("extensions/domains/floorplan/export", "drawing"): "what CAD programs call their files",
    ("extensions/domains/floorplan/export", "drawings"): "the same",
    ("config/yaml_text.py", "folded"): "a block style of YAML",
    ("prepare/inspection/captions.py", "picture"): "a word of captions that says nothing of what an image shows",
    ("cli/doctor.py", "spelling"): "of a name that the user typed",
    ("recipes/mini/data.py", "picture"): "the purpose of a seed: another one gives other images",
    ("benchmarks/busy_cores.py", "draw"): "a method's name in a program's text",
    ("benchmarks/mini.py", "drawn"): "a key in recorded figures",
    ("benchmarks/many_files.py", "drawn"): "captions of the measured dataset",
    ("benchmarks/prepare_speed.py", "drawn"): "the same",
    ("benchmarks/training_speed.py", "drawn"): "the same",
    ("utils/image_bytes.py", "drawing"): "what SVG files are called",
}
"""File or folder below `src/loraloom` or the repository and a word that means something else there -> what it means."""

INSTEAD = list(WORDS)
_GROUPS = [f"(?P<w{number}>{'|'.join(words)})" for number, words in enumerate(WORDS.values())]
PATTERN = re.compile(rf"\b(?:{'|'.join(_GROUPS)})\b", re.IGNORECASE)

Found = tuple[int, str, str]
"""Line, the word as it is written, what to write."""


def unwanted(text: str, first_line: int = 1) -> Iterator[Found]:
    """Every word of the list in a prose text. A phrase may be broken between two lines."""
    for match in PATTERN.finditer(_joined(text)):
        name = match.lastgroup
        assert name is not None
        line = first_line + text.count("\n", 0, match.start())
        yield line, match[0], INSTEAD[int(name[1:])]


def _joined(text: str) -> str:
    """The text with its single line breaks as blanks, so that a phrase is found across them; every index stays."""
    return re.sub(r"(?<=\S)\n(?=[ \t]*\S)", " ", text)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def without_code(markdown: str) -> str:
    """A page without its code blocks; every line keeps its number."""
    return re.sub(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", _blank, markdown, flags=re.MULTILINE | re.DOTALL)


def prose(markdown: str) -> str:
    """A page without code blocks, inline code, link targets and addresses; every line keeps its number."""
    text = re.sub(r"`[^`\n]*(?:\n[^`\n]+)?`", _blank, without_code(markdown))
    text = re.sub(r"(?<=\])\([^)\s]*\)", _blank, text)
    return re.sub(r"https?://\S+", _blank, text)


def text_of_page(path: Path) -> str:
    """A page's text; of the architecture page only what is written by hand, the tree is made of docstrings."""
    text = path.read_text(encoding="utf-8")
    return text.partition("## The tree\n")[0] if path.name == "architecture.md" else text


def pages() -> list[Path]:
    return [ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def pages_and_readme() -> list[Path]:
    return [ROOT / "README.md", *pages()]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def listed(path: Path, found: Iterable[Found]) -> list[str]:
    return [f"{name(path)}:{line} {word!r}: write {instead}" for line, word, instead in found]


# ------------------------------------------------------------------------------------------------------------ pages


@pytest.mark.parametrize("path", pages(), ids=name)
def test_a_page_uses_the_words_of_the_design(path: Path) -> None:
    found = listed(path, unwanted(prose(text_of_page(path))))
    assert not found, "\n".join(found)


def test_the_readme_is_short_and_uses_the_words_of_the_design() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = listed(ROOT / "README.md", unwanted(prose(text)))
    assert len(text.splitlines()) <= MAX_README_LINES
    assert not too_wide(text)
    assert not found, "\n".join(found)


def too_wide(markdown: str) -> list[int]:
    """Lines of more than `MAX_COLUMNS` characters that could be broken: no code, table or heading; a link is its text."""
    wide: list[int] = []
    for number, line in enumerate(without_code(markdown).split("\n"), 1):
        shown = re.sub(r"(?<=\])\([^)\s]*\)|https?://\S+", "", line)
        if len(shown.rstrip()) > MAX_COLUMNS and not line.lstrip().startswith(("|", "#")):
            wide.append(number)
    return wide


@pytest.mark.parametrize("path", pages(), ids=name)
def test_a_page_wraps_at_a_hundred_columns(path: Path) -> None:
    assert not [f"{name(path)}:{line}" for line in too_wide(text_of_page(path))]


def anchors(markdown: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?)[ \t]*$", without_code(markdown), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", pages_and_readme(), ids=name)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    wrong: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        known = anchors(there.read_text(encoding="utf-8")) if anchor and there.is_file() else {anchor}
        if not there.exists() or anchor not in known:
            wrong.append(f"{name(path)} links to {target}")
    assert not wrong, "\n".join(wrong)


def notes() -> dict[str, list[Path]]:
    """Number of each note to its files."""
    found: dict[str, list[Path]] = {}
    for folder in ("decisions", "experiments"):
        for path in sorted((DOCS / folder).glob("[0-9]*.md")):
            found.setdefault(path.name[:4], []).append(path)
    return found


def test_every_note_has_its_own_number_and_a_row_in_its_index() -> None:
    for number, paths in notes().items():
        assert len(paths) == 1, paths
        (path,) = paths
        index = (path.parent / "README.md").read_text(encoding="utf-8")
        assert re.search(rf"^\|.*\({re.escape(path.name)}\).*\|$", index, flags=re.MULTILINE), (
            f"{name(path)} has no row"
        )
        title = re.match(rf"# {number}: (.+)\n", path.read_text(encoding="utf-8"))
        assert title is not None, f"{name(path)} does not begin with '# {number}: Title'"


def test_a_decision_that_the_code_or_a_page_names_is_there() -> None:
    """Docstrings say "decision 0019"; the note may move between the two folders, its number stays."""
    known = notes()
    mention = re.compile(
        r"\b(?:decision|experiment)s?\s+\[?(\d{4})\b(?:\]\([^)]*\))?(?:(?:,| and| to)\s+\[?(\d{4})\b)?"
    )
    files = [
        *SOURCE.rglob("*.py"),
        *(ROOT / "recipes").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
        *pages_and_readme(),
    ]
    wrong: list[str] = []
    for path in files:
        for match in mention.finditer(path.read_text(encoding="utf-8")):
            wrong += [f"{name(path)}: {number}" for number in match.groups() if number and number not in known]
    assert not wrong, "\n".join(wrong)


# ----------------------------------------------------------------------------------------------------------- source


def texts_of_module(source: str) -> Iterator[tuple[int, str]]:
    """First line and text of every comment, docstring and message: strings of one word are names or data, not prose."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\w\s+\w", node.value):
            yield node.lineno, node.value


def unwanted_in_module(path: Path) -> Iterator[Found]:
    file = path.relative_to(SOURCE if path.is_relative_to(SOURCE) else ROOT).as_posix()
    allowed = {word for place, word in ALLOWED_IN_SOURCE if file == place or file.startswith(f"{place}/")}
    for line, text in texts_of_module(path.read_text(encoding="utf-8")):
        yield from (found for found in unwanted(prose(text), line) if found[1].lower() not in allowed)


ROOMS = sorted({path.relative_to(SOURCE).parts[0] for path in SOURCE.rglob("*.py")})
BESIDE_THE_PACKAGE = ("recipes", "benchmarks", "scripts")
FRAGMENT = re.compile(r"\A\s*Of\b|^[ \t]+\*{0,2}\w[\w, .*]*:\s+Of\b", re.MULTILINE)


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_comments_help_and_errors_use_the_words_of_the_design(room: str) -> None:
    place = SOURCE / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    found = [line for path in files for line in listed(path, unwanted_in_module(path))]
    assert not found, "\n".join([f"{len(found)} words", *found])


def modules_beside_the_package(folder: str) -> list[Path]:
    """The modules of a folder of the repository, without tests."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "tests" not in path.parts]


@pytest.mark.parametrize("folder", BESIDE_THE_PACKAGE)
def test_recipes_benchmarks_and_scripts_use_the_words_of_the_design(folder: str) -> None:
    found = [line for path in modules_beside_the_package(folder) for line in listed(path, unwanted_in_module(path))]
    assert not found, "\n".join([f"{len(found)} words", *found])


def fragments(source: str) -> Iterator[Found]:
    """Line and first words of every docstring, and of every entry of its `Attributes:` or `Args:`, that begins "Of"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text = node.value.value
            for match in FRAGMENT.finditer(text):
                yield node.value.lineno + text.count("\n", 0, match.end()), match[0].strip(), "a full sentence"


@pytest.mark.parametrize("place", [*ROOMS, *BESIDE_THE_PACKAGE])
def test_no_docstring_or_entry_of_one_begins_with_of(place: str) -> None:
    """ "seed: Of the run." says neither what the seed does nor its range."""
    if place in BESIDE_THE_PACKAGE:
        files = modules_beside_the_package(place)
    else:
        room = SOURCE / place
        files = sorted(room.rglob("*.py")) if room.is_dir() else [room]
    found = [line for path in files for line in listed(path, fragments(path.read_text(encoding="utf-8")))]
    assert not found, "\n".join([f"{len(found)} entries", *found])


# ------------------------------------------------------------------------------------------------- the check itself


@pytest.mark.parametrize(
    "text",
    [
        "Two pictures a step.",
        "The run goes\non where it ended.",
        "What was told to the model",
        "A vase is drawn.",
        "| cell | the judge says so |",
        "[a picture](images/a.png)",
        "We teach it.",
    ],
)
def test_a_word_of_the_list_is_found(text: str) -> None:
    assert list(unwanted(prose(text)))


@pytest.mark.parametrize(
    "text",
    [
        "`told` in `prompts.jsonl`",
        "```\nloraloom samples --pictures 3\n```\nNothing else.",
        "[images](docs/pictures.md)",
        "The held-out images of a run.",
        "A floor plan passes its check.\n\nOn it goes the door.",
        "It weighs 31 MB.",
        "A withdrawal, a foldable chair, adrawn.",
    ],
)
def test_code_and_standard_terms_are_not_found(text: str) -> None:
    assert not list(unwanted(prose(text)))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('"""Of the run."""\n', 1),
        ('class A:\n    """A.\n\n    Attributes:\n        seed: Of the run.\n    """\n', 5),
        ('def f(a, b):\n    """F.\n\n    Args:\n        a, b:\n            Of the run.\n    """\n', 6),
        ('SIZE = 3\n"""Of an image."""\n', 2),
    ],
)
def test_an_entry_that_begins_with_of_is_found_with_its_line(source: str, line: int) -> None:
    assert [found[0] for found in fragments(source)] == [line]


@pytest.mark.parametrize(
    "source",
    [
        '"""Seed of the run."""\n',
        '"""A.\n\n    seed: Seed of the run.\n    Of these only one is used.\n"""\n',
        'a = "Of the run."\n',
    ],
)
def test_of_within_a_sentence_and_in_other_strings_is_not_found(source: str) -> None:
    assert not list(fragments(source))


def test_a_word_is_reported_with_its_own_line() -> None:
    assert [line for line, _, _ in unwanted("One.\nTwo\n\nA picture\nand what goes\non.\n")] == [4, 5]


def test_wide_lines_are_found_outside_code_tables_and_links() -> None:
    long = "word " * 21
    link = f"[short]({'a' * 120})"
    page = f"{long}\n\n| {long} |\n\n```\n{long}\n```\n\n{link}\n- {long}\n"
    assert too_wide(page) == [1, 10]
