"""Read settings of the form NAME=VALUE: weights of classes, batch sizes by size, dropout by encoder, numbers of folders."""

import re


def read_class_weights(texts: tuple[str, ...]) -> dict[str, float]:
    """`NAME=WEIGHT` of each text, the weight 0 or more; NAME may be a colour, `#rrggbb`.

    Raises:
        ValueError: A text of another form, or a duplicate name.
    """
    weights: dict[str, float] = {}
    for text in texts:
        match = re.fullmatch(r"\s*(#[0-9a-fA-F]{6}|[^#=\s][^=]*?)\s*=\s*(\d+(?:\.\d*)?|\.\d+)\s*", text)
        if not match:
            raise ValueError(f"{text!r} is not NAME=WEIGHT, such as 'interior door=5' or '#a06400=5'")
        name = match[1].lower() if match[1].startswith("#") else match[1]
        if name in weights:
            raise ValueError(f"{name!r} has two weights")
        weights[name] = float(match[2])
    return weights


def read_batch_sizes(texts: tuple[str, ...], batch_size: int) -> tuple[tuple[int, int], ...]:
    """`SIDE=N` of each text as (pixels, batch size), the largest number of pixels first.

    Args:
        texts: As `data.batch_size_from` has them.
        batch_size: The batch size of all other images, the largest of all.

    Raises:
        ValueError: A text of another form, a duplicate side, or a batch that is larger than that of smaller images.
    """
    sizes: dict[int, int] = {}
    for text in texts:
        match = re.fullmatch(r"\s*(\d{2,5})\s*=\s*(\d{1,5})\s*", text)
        if not match or int(match[2]) < 1:
            raise ValueError(f"{text!r} is not SIDE=N, such as 768=2")
        pixels = int(match[1]) ** 2
        if pixels in sizes:
            raise ValueError(f"side {int(match[1])} has two batch sizes")
        sizes[pixels] = int(match[2])
    ordered = sorted(sizes.items(), reverse=True)
    batches = [*(batch for _, batch in ordered), batch_size]
    if batches != sorted(batches):
        raise ValueError("data.batch_size_from gives larger images a larger batch: give them a smaller one")
    return tuple(ordered)


def read_encoder_dropout(texts: tuple[str, ...]) -> dict[str, float]:
    """`ENCODER=P` of each text, the probability P from 0 to 1.

    Raises:
        ValueError: A text of another form, a probability above 1, or an encoder with two.
    """
    found: dict[str, float] = {}
    for text in texts:
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\d+(?:\.\d*)?|\.\d+)\s*", text)
        if not match or not 0 <= float(match[2]) <= 1:
            raise ValueError(f"{text!r} is not ENCODER=P with P from 0 to 1, such as text_encoder_2=0.1")
        if match[1] in found:
            raise ValueError(f"{match[1]!r} has two probabilities")
        found[match[1]] = float(match[2])
    return found


def read_folder_numbers(texts: tuple[str, ...], *, whole: bool, most: float) -> dict[str, float]:
    """`FOLDER=N` of each text: a folder below the source, `/` between parts, and its number.

    Args:
        texts: As the settings `repeats` and `weights` of `prepare` have them.
        whole: Whether only whole numbers of 1 or more are accepted; else numbers above 0.
        most: The largest number.

    Raises:
        ValueError: A text of another form, a number out of range, or a folder with two numbers.
    """
    numbers: dict[str, float] = {}
    for text in texts:
        folder, equals, value = _folder_and_value(text)
        match = re.fullmatch(r"\s*(\d+)\s*" if whole else r"\s*(\d+(?:\.\d*)?|\.\d+)\s*", value)
        if not equals or not folder or not match:
            raise ValueError(f"{text!r} is not FOLDER=N, such as {'photos=10' if whole else 'photos=0.5'}")
        number = float(match[1])
        if not (1 if whole else 0) <= number <= most or not number:
            raise ValueError(f"{text!r} is out of range: {'1' if whole else 'above 0'} to {most:g}")
        if folder in numbers:
            raise ValueError(f"folder {folder!r} has two numbers")
        numbers[folder] = number
    return numbers


def read_folder_sizes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`FOLDER=SIDE` or `FOLDER=SIDE,SIDE` of each text: a folder below the source and its sides in pixels, 16 to 4096.

    Raises:
        ValueError: A text of another form, a side out of range or named twice, or a folder that is named twice.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        folder, equals, value = _folder_and_value(text)
        if not equals or not folder or not re.fullmatch(r"\s*\d{1,5}(\s*,\s*\d{1,5})*\s*", value):
            raise ValueError(f"{text!r} is not FOLDER=SIDE,SIDE, such as photos=768 or photos=512,768")
        sides = tuple(int(side) for side in value.split(","))
        if not all(16 <= side <= 4096 for side in sides) or len(set(sides)) < len(sides):
            raise ValueError(f"{text!r} is out of range: different sides, each of 16 to 4096 pixels")
        if folder in sizes:
            raise ValueError(f"folder {folder!r} is named twice; write its sides behind each other: {folder}=512,768")
        sizes[folder] = sides
    return sizes


def _folder_and_value(text: str) -> tuple[str, str, str]:
    folder, equals, value = text.rpartition("=")
    return folder.strip().replace("\\", "/").strip("/"), equals, value
