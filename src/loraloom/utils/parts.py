"""Work shared out to several machines or jobs without a word between them: `--part 2/5`.

In: `K/N`. Out: which of numbered things the part has: every N-th from the K-th, so that each part has a like share.
"""

import re
from dataclasses import dataclass
from typing import Self

from loraloom.utils.errors import UserError

MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Part `number` of `of`; the first is 1."""

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> Self:
        """The part of its text form, `2/5`.

        Raises:
            UserError: It is none.
        """
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]) <= MAX_PARTS:
            fix = "count parts from 1: in a Slurm array, sbatch --array=1-5 and --part $SLURM_ARRAY_TASK_ID/5"
            raise UserError("--part", got=text, expected=f"K/N, such as 2/5; 1 <= K <= N <= {MAX_PARTS:,}", fix=fix)
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def has(self, place: int) -> bool:
        """Whether the item at this place, counted from 0, belongs to the part."""
        return place % self.of == self.number - 1

    @property
    def slice(self) -> slice:
        """The items of the part out of a sequence of all."""
        return slice(self.number - 1, None, self.of)

    def shared(self, rank: int, ranks: int) -> "Part":
        """The share of one of several processes that do this part together; `rank` counts from 0."""
        return Part(self.number + rank * self.of, self.of * ranks)
