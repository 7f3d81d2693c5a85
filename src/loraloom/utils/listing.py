"""List the files of a folder that somebody else filled, and say what kind of file each is.

In: a folder. Out: one `Entry` a file, with its kind by suffix or by its first bytes, and the reason why it may not be
used. Nothing is followed out of the folder, and nothing is left out: hidden files and linked folders are entries too.
"""

import os
import re
import struct
import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from functools import cached_property
from pathlib import Path

from loraloom.utils.safe_paths import printable_name


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RAW_SUFFIXES = _words(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw "
    ".x3f"
)
"""Raw files of cameras. Most are TIFF files whose first image is a small preview, so they are never decoded."""
IMAGE_SUFFIXES = (
    _words(
        ".jpg .jpeg .jpe .jfif .jif .jfi .mpo .png .apng .webp .bmp .dib .tif .tiff .gif .avif .avifs .heic .heif .hif "
        ".heics .heifs"
    )
    # Known as images, and refused with their own reason when they are decoded.
    | _words(".svg .svgz .jxl .psd .psb .xcf .jp2 .j2k .jpx .tga .ico .ppm .pgm .pbm .pnm .exr .hdr .dds .eps")
    | RAW_SUFFIXES
)
TABLE_SUFFIXES = _words(".jsonl .ndjson .json .csv .tsv .parquet .arrow .xlsx .xls .ods .yaml .yml .xml")
TEXT_SUFFIXES = _words(".txt .caption .captions .cap .text .tags .tag .prompt .prompts .md .booru")
_OTHER_SUFFIXES = {
    "a video: save its frames as images": ".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .3gp",
    "an archive: unpack it": ".zip .tar .gz .tgz .7z .rar .xz .zst .bz2",
    "a document: save its pages as images": ".pdf .doc .docx .ppt .pptx .rtf .odt",
    "a model or cache, not an image": ".safetensors .ckpt .pt .pth .npz .npy .onnx",
    "settings of a photo program, not a caption": ".xmp .aae .pp3 .dop .thm .lrv .cos .cop .on1",
    "a sound": ".mp3 .wav .flac .m4a .ogg",
    "a program or page": ".py .sh .bat .ps1 .html .htm .js .ipynb .log .ini .cfg .toml .lock",
}
_KINDS = {suffix: reason for reason, suffixes in _OTHER_SUFFIXES.items() for suffix in suffixes.split()}

_SYSTEM_FILES = frozenset(
    {
        ".ds_store",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        ".gitattributes",
        ".gitignore",
        ".localized",
        ".directory",
        ".nomedia",
        ".picasa.ini",
        # What the library `datasets` writes beside its tables.
        "dataset_info.json",
        "dataset_dict.json",
        "state.json",
        "icon\r",
    }
)
_SYSTEM_FOLDERS = frozenset(
    {
        "__macosx",
        ".git",
        ".cache",
        ".captions",
        ".ipynb_checkpoints",
        ".trashes",
        ".spotlight-v100",
        ".fseventsd",
        ".thumbnails",
        "@eadir",
        "$recycle.bin",
        "system volume information",
    }
)
_GROUND_TRUTH = re.compile(r"truth/[^/]+\.json|truth\.jsonl|scenes\.json")
"""Beside images of `loraloom samples`: their content, for verifiers."""

TABLE_NAMES = ("metadata.jsonl", "metadata.csv")
_ROWS_SUFFIXES = _words(".jsonl .ndjson .csv .tsv .parquet .xlsx .xls .ods")
_METADATA = frozenset("metadata")
_TABLE_STEMS = frozenset({"metadata", "meta_data", "meta-data", "captions", "prompts"})

MASK_FOLDERS = frozenset({"mask", "masks"})
_MASK_ALWAYS = re.compile(r"-(?:masklabel|condlabel)$", re.IGNORECASE)
_MASK_BESIDE = re.compile(r"[-_.](?:mask|alpha_mask|mask_label)$", re.IGNORECASE)
_HEAD_BYTES = 64
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


@dataclass(frozen=True)
class Entry:
    """One file below a folder, or a folder that is not entered.

    Attributes:
        name: Path below the folder, `/` between parts.
        path: The file.
        problem: Why it may not be used; None when it may.
        system: Whether the system or a tool left it there, so that nobody misses it.
    """

    name: str
    path: Path
    problem: str | None = None
    system: bool = False

    @property
    def suffix(self) -> str:
        """Lower-case suffix with its dot."""
        return split_name(self.name)[1].lower()

    @property
    def stem(self) -> str:
        """`name` without its suffix."""
        return split_name(self.name)[0]

    @cached_property
    def is_image(self) -> bool:
        """Whether it is an image: by its suffix, or where that says nothing by its first bytes."""
        if self.system or self.name.endswith("/"):
            return False
        suffix = self.suffix
        if suffix in IMAGE_SUFFIXES:
            return True
        if self.problem or suffix in TEXT_SUFFIXES or suffix in TABLE_SUFFIXES or suffix in _KINDS:
            return False
        return sniff_image(first_bytes(self.path)) is not None

    @property
    def is_text(self) -> bool:
        """Whether the suffix is one that captions have."""
        return self.suffix in TEXT_SUFFIXES and not self.system

    @property
    def is_table(self) -> bool:
        """Whether the suffix is one that tables of captions have."""
        return self.suffix in TABLE_SUFFIXES and not self.system

    @property
    def kind(self) -> str:
        """What the file is by its suffix, for one that is not used."""
        return _KINDS.get(self.suffix, "neither an image nor a caption of one")


def split_name(name: str) -> tuple[str, str]:
    """A path below a folder as stem and suffix, as `PurePosixPath` has them, in a twentieth of its time."""
    dot = name.rfind(".")
    if name.rfind("/") + 1 < dot < len(name) - 1:
        return name[:dot], name[dot:]
    return name, ""


def walk(folder: Path) -> list[Entry]:
    """All files below `folder` sorted by name.

    A link to a file counts as the file when it stays inside the folder and has a problem when it leads out of it. Hidden
    files have a problem. Hidden, linked and locked folders are not entered: each is one entry whose name ends in `/`.
    """
    root = folder.resolve()
    found: list[Entry] = []
    closed: list[OSError] = []
    for directory, folders, files in os.walk(folder, onerror=closed.append):
        prefix = "" if (below := Path(directory).relative_to(folder).as_posix()) == "." else f"{below}/"
        entered: list[str] = []
        for name in sorted(folders):
            if (problem := _folder_problem(name, Path(directory, name))) is None:
                entered.append(name)
            else:
                system = name.lower() in _SYSTEM_FOLDERS
                found.append(Entry(f"{printable_name(prefix + name)}/", Path(directory, name), problem, system))
        folders[:] = entered
        found.extend(_entry(root, f"{prefix}{name}", Path(directory, name)) for name in files)
    for error in closed:  # os.walk itself would pass over them
        path = Path(error.filename)
        name = printable_name(path.relative_to(folder).as_posix())
        found.append(Entry(f"{name}/", path, f"a folder that cannot be read: {error.strerror}"))
    return sorted(found, key=lambda entry: entry.name)


def _folder_problem(name: str, path: Path) -> str | None:
    if name.lower() in _SYSTEM_FOLDERS:
        return "a folder of the system or of a tool"
    if name.startswith("."):
        return "a hidden folder: its name begins with a dot, so it is not read"
    return "a link to a folder: copy the folder itself here" if path.is_symlink() else None


def _entry(root: Path, name: str, path: Path) -> Entry:
    last = name.rpartition("/")[2]
    if last.lower() in _SYSTEM_FILES or last.startswith("._"):
        return Entry(printable_name(name), path, "a file of the system or of a tool", system=True)
    if _GROUND_TRUTH.fullmatch(name):
        return Entry(name, path, "ground truth of synthesized images", system=True)
    if (shown := printable_name(name)) != name:
        return Entry(shown, path, "its name is not valid Unicode: rename it")
    return Entry(name, path, _file_problem(root, last, path))


def _file_problem(root: Path, last: str, path: Path) -> str | None:
    if last.startswith("."):
        return "a hidden file: its name begins with a dot, so it is not read"
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return "a link that leads nowhere"
        if not target.is_relative_to(root):
            return "a link that leads out of the folder: copy the file itself into it"
    if not path.is_file():
        return "not a regular file"
    if split_name(last)[1].lower() in RAW_SUFFIXES:
        return "a camera's raw file: export it as JPEG, PNG or TIFF"
    return None


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def sniff_image(head: bytes) -> str | None:
    """The image format that a file's first 64 bytes announce, of those that are decoded; None when they announce none."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    # Two letters announce little: the size of the second header must be one that exists.
    if (
        head.startswith(b"BM")
        and len(head) >= 18
        and struct.unpack_from("<I", head, 14)[0] in {12, 40, 52, 56, 64, 108, 124}
    ):
        return "BMP"
    if head[4:8] == b"ftyp":
        # The brands `mif1` and `msf1` say image and nothing of its codec, which is then among the compatible brands.
        brands = {
            head[8:12],
            *(head[place : place + 4] for place in range(16, min(len(head), int.from_bytes(head[:4])), 4)),
        }
        return "AVIF" if brands & _AVIF_BRANDS else "HEIF" if brands & _HEIF_BRANDS else None
    return None


def is_known_other(suffix: str) -> bool:
    """Whether a suffix is that of something else than images, captions and tables: a video, an archive, a program."""
    return suffix in _KINDS


def name_key(name: str) -> str:
    """A name as it compares with another: Unicode NFC, because macOS writes file names in another form than texts."""
    return unicodedata.normalize("NFC", name)


def near_table_name(name: str) -> str | None:
    """The table that a file was perhaps meant to be, as a hint; None when it was none, or is one by its name."""
    last = name.rpartition("/")[2].casefold()
    suffix = split_name(last)[1]
    if last in TABLE_NAMES or last == "splits.json" or suffix in IMAGE_SUFFIXES or name.endswith("/"):
        return None
    if not (suffix in _ROWS_SUFFIXES or last.split(".")[0] in _TABLE_STEMS or _is_near(last)):
        return None
    meant = max(TABLE_NAMES, key=lambda known: SequenceMatcher(None, last, known).ratio())
    return f"did you mean {meant}? tables of captions have that name"


def _is_near(name: str) -> bool:
    # Comparing costs 20 us, and a folder has many names: most lack the letters of "metadata".
    return len(_METADATA & set(name)) >= len(_METADATA) - 1 and bool(get_close_matches(name, TABLE_NAMES, 1, 0.8))


def find_masks(entries: list[Entry]) -> set[str]:
    """Names of the images that are masks of other images: by a suffix of the name, or in a mask folder by equal names.

    `a-masklabel.png` and `a-condlabel.png` always are, as OneTrainer writes them; `a_mask.png` and `a-mask.png` are
    where there is an image `a`; a file in `mask/` or `masks/` is where an image of the same name lies in the folder
    that holds the mask folder, or in another folder below that.
    """
    images = [(entry.name, *name_key(entry.stem).rpartition("/")[::2]) for entry in entries if entry.is_image]
    stems = {(folder, last) for _, folder, last in images}
    homes: dict[str, set[str]] = {}
    for _, folder, last in images:
        if _above_mask_folder(folder) is None:
            homes.setdefault(last, set()).add(folder)
    masks: set[str] = set()
    for name, folder, last in images:
        base, above = _MASK_BESIDE.sub("", last), _above_mask_folder(folder)
        beside = bool(base) and base != last and (folder, base) in stems
        apart = above is not None and any(
            f"{home}/".startswith(f"{above}/".lstrip("/")) for home in homes.get(last, ())
        )
        if beside or apart or _MASK_ALWAYS.search(last):
            masks.add(name)
    return masks


def _above_mask_folder(folder: str) -> str | None:
    """The folder that holds the first mask folder on the way into `folder`; None where there is none."""
    parts = folder.split("/")
    depth = next((number for number, part in enumerate(parts) if part.lower() in MASK_FOLDERS), None)
    return None if depth is None else "/".join(parts[:depth])
