"""What is said of folders: repeats, loss weight, batch size and prepared sizes of their images; kohya's class folders.

In: settings, ids and class folders. Out: these of every image, and lines on folders that hold none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from loraloom.config.pairs import read_folder_numbers, read_folder_sizes
from loraloom.config.prepare import MAX_BATCH_SIZE, MAX_REPEATS, MAX_WEIGHT, PrepareConfig
from loraloom.prepare.class_folders import ClassFolder
from loraloom.utils.errors import did_you_mean

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FolderNumbers:
    """Numbers of folders below the source; `.` is the source itself.

    Attributes:
        repeats: Folder -> times that an epoch shows its images.
        weights: Folder -> loss weight of its images.
        classes: Id of a source item -> its class folder.
        batch_sizes: Folder -> batch size of its images.
        sizes: Folder -> sides in pixels that its images are prepared at, the first one first.
        usual_sizes: Those of all other images.
    """

    repeats: Mapping[str, float]
    weights: Mapping[str, float]
    classes: Mapping[str, ClassFolder]
    batch_sizes: Mapping[str, float] = field(default_factory=dict[str, float])
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    usual_sizes: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: PrepareConfig, classes: Mapping[str, ClassFolder]) -> "FolderNumbers":
        """The numbers that the settings name."""
        return cls(
            read_folder_numbers(config.repeats, whole=True, most=MAX_REPEATS),
            read_folder_numbers(config.weights, whole=False, most=MAX_WEIGHT),
            classes,
            read_folder_numbers(config.batch_size_of, whole=True, most=MAX_BATCH_SIZE),
            read_folder_sizes(config.size_of),
            (config.size, *config.also_size),
        )

    def repeats_of(self, item_id: str) -> int:
        """What the user says of the innermost folder, else the class folder's repeats, else 1."""
        said = _innermost(item_id, self.repeats)
        known = self.classes.get(item_id)
        return int(said) if said is not None else known.repeats if known else 1

    def weight_of(self, item_id: str) -> float:
        """What the user says of the innermost folder, else 1.0."""
        said = _innermost(item_id, self.weights)
        return 1.0 if said is None else said

    def batch_size_of(self, item_id: str) -> int | None:
        """What the user says of the innermost folder, else None."""
        said = _innermost(item_id, self.batch_sizes)
        return None if said is None else int(said)

    def sizes_of(self, item_id: str) -> tuple[int, ...]:
        """Sides in pixels that an image is prepared at: those of the innermost folder, else those of all images."""
        return _innermost(item_id, self.sizes) or self.usual_sizes

    def unknown(self, ids: Sequence[str]) -> list[str]:
        """A line for each folder that the user names and that holds no image."""
        folders = {folder for id_ in ids for folder in _folders(id_)}
        lines: list[str] = []
        numbers = {"--repeats": self.repeats, "--weight": self.weights, "--batch-size-of": self.batch_sizes}
        said = [(flag, folder, f"{value:g}") for flag, of in numbers.items() for folder, value in of.items()]
        said += [("--size-of", folder, ",".join(map(str, sides))) for folder, sides in self.sizes.items()]
        for flag, folder, value in said:
            if folder not in folders:
                hint = did_you_mean(folder, sorted(folders - {"."}) or ["."])
                lines.append(f"{flag} {folder}={value} is not used: no image lies in that folder; {hint}")
        return lines


def _folders(item_id: str) -> list[str]:
    """The folders that hold an image, the innermost first."""
    parts = item_id.split("/")[:-1]
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)] + ["."]


def _innermost(item_id: str, numbers: Mapping[str, T]) -> T | None:
    return next((numbers[folder] for folder in _folders(item_id) if folder in numbers), None) if numbers else None
