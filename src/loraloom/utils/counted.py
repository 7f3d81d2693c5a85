"""Numbers with their nouns.

In: a number and a noun. Out: text for a line that people read.
"""


def counted(number: int, noun: str) -> str:
    """`1 image`, `1,234 images`, `2 batches`."""
    plural = f"{noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
    return f"{number:,} {noun if number == 1 else plural}"
