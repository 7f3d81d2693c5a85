"""Repeats and loss weights of images by their folder: kohya's class folders, and what the user says of folders.

In: settings, ids and class folders. Out: repeats and weight of every image, and lines on folders that hold none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loraloom.config.pairs import read_folder_numbers
from loraloom.config.prepare import MAX_REPEATS, MAX_WEIGHT, PrepareConfig
from loraloom.prepare.class_folders import ClassFolder
from loraloom.utils.errors import did_you_mean


@dataclass(frozen=True, slots=True)
class FolderNumbers:
    """Numbers of folders below the source; `.` is the source itself.

    Attributes:
        repeats: Folder -> times that an epoch shows its images.
        weights: Folder -> loss weight of its images.
        classes: Id of a source item -> its class folder.
    """

    repeats: Mapping[str, float]
    weights: Mapping[str, float]
    classes: Mapping[str, ClassFolder]

    @classmethod
    def of(cls, config: PrepareConfig, classes: Mapping[str, ClassFolder]) -> "FolderNumbers":
        """The numbers that the settings name."""
        return cls(
            read_folder_numbers(config.repeats, whole=True, most=MAX_REPEATS),
            read_folder_numbers(config.weights, whole=False, most=MAX_WEIGHT),
            classes,
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

    def unknown(self, ids: Sequence[str]) -> list[str]:
        """A line for each folder that the user names and that holds no image."""
        folders = {folder for id_ in ids for folder in _folders(id_)}
        lines: list[str] = []
        for flag, numbers in (("--repeats", self.repeats), ("--weight", self.weights)):
            for folder in numbers:
                if folder not in folders:
                    hint = did_you_mean(folder, sorted(folders - {"."}) or ["."])
                    lines.append(
                        f"{flag} {folder}={numbers[folder]:g} is not used: no image lies in that folder; {hint}"
                    )
        return lines


def _folders(item_id: str) -> list[str]:
    """The folders that hold an image, the innermost first."""
    parts = item_id.split("/")[:-1]
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)] + ["."]


def _innermost(item_id: str, numbers: Mapping[str, float]) -> float | None:
    return next((numbers[folder] for folder in _folders(item_id) if folder in numbers), None) if numbers else None
