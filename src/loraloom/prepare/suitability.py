"""Images of a dataset that its domain cannot use as they are: looked for in a sample, counted in one line.

In: a domain and prepared examples. Out: a line for each kind of fault, such as "12 of 40 images are in colours of no known
style". The images stay in the dataset; `strict` makes an error of the lines.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from loraloom.protocols.data import Example
from loraloom.protocols.domain import Domain

MAX_SAMPLED = 64
"""Images that are looked at, evenly spread: a check costs about 30 ms an image."""


def unsuited_images(domain: Domain, folder: Path, examples: Sequence[Example]) -> list[str]:
    """A line for each kind of fault that the domain finds, with the number of images, the first and what it shows.

    Args:
        domain: Its `check_image` names the fault: the kind, and behind a colon what that image shows.
        folder: Folder of the dataset.
        examples: All of its examples; at most `MAX_SAMPLED` are looked at.
    """
    number = min(len(examples), MAX_SAMPLED)
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for example in (examples[place * len(examples) // number] for place in range(number)):
        with Image.open(folder / example.image, formats=["PNG"]) as image:
            fault = domain.check_image(image.convert("RGB"))
        if fault is not None:
            kind, _, detail = fault.partition(": ")
            found[kind].append((example.id, detail))
    of_all = (
        f"of {number:,} images"
        if number == len(examples)
        else f"of {number:,} images looked at ({len(examples):,} in all)"
    )
    return [
        f"{len(faults):,} {of_all} {'is' if len(faults) == 1 else 'are'} {kind}: {faults[0][0]}"
        + (f" has {faults[0][1]}" if faults[0][1] else "")
        for kind, faults in found.items()
    ]
