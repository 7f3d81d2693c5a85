"""Verdicts on images: what an examination means for a purpose.

In: examinations and thresholds. Out: findings.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from loraloom.prepare.inspection.examine import Examination
from loraloom.prepare.inspection.findings import Finding, Thresholds

_STANDARD_PROFILES = ("srgb", "iec61966")


def image_findings(found: Examination, shown: str, thresholds: Thresholds) -> Iterator[Finding]:
    """What is to be said about one image.

    Args:
        found: The examination.
        shown: The file as the user knows it.
        thresholds: What is too small, too blurred and so on.
    """
    if found.problem is not None or found.quality is None:
        yield Finding("unusable", shown, found.problem or "cannot be decoded")
        return
    side = min(found.width, found.height)
    size = f"{found.width} x {found.height}"
    if side < thresholds.min_side:
        yield Finding("too_small", shown, f"{size}: the shorter side is below --min-size {thresholds.min_side}")
    elif found.scale > thresholds.max_enlargement:
        times = f"{found.scale:.1f} times, the limit is {thresholds.max_enlargement:g}"
        yield Finding("too_small", shown, f"{size} would be enlarged {times}")
    elif found.scale > 1.02:
        yield Finding("small", shown, f"{size} would be enlarged {found.scale:.1f} times")
    if found.cut > thresholds.max_cut:
        yield Finding("cut", shown, f"{found.cut:.0%} of {size} is cut off for {found.target[0]} x {found.target[1]}")
    if found.fault is not None:
        yield Finding("unsuited", shown, found.fault)
    yield from _quality(found, shown, thresholds)
    yield from _facts(found, shown)


def _quality(found: Examination, shown: str, thresholds: Thresholds) -> Iterator[Finding]:
    quality = found.quality
    assert quality is not None
    if quality.brightness < thresholds.min_brightness:
        yield Finding("dark", shown, f"mean brightness {quality.brightness:.0%}")
        return
    if quality.contrast < thresholds.min_contrast:
        yield Finding("flat", shown, f"98 % of its pixels span {quality.contrast:.0%} of the brightness range")
        return
    if quality.blur > thresholds.max_blur:
        yield Finding("blurred", shown, f"blur effect {quality.blur:.2f}, the limit is {thresholds.max_blur:g}")
    if quality.black + quality.white > thresholds.max_clipped and not quality.is_graphic:
        share = f"{quality.black:.0%} of its pixels are pure black, {quality.white:.0%} pure white"
        yield Finding("clipped", shown, share)


def _facts(found: Examination, shown: str) -> Iterator[Finding]:
    facts = found.facts
    if facts.turned:
        yield Finding("turned", shown, f"its EXIF turns it; upright it is {found.width} x {found.height}")
    if facts.transparent:
        yield Finding("transparent", shown, f"mode {facts.mode}")
    if facts.mode == "CMYK":
        yield Finding("cmyk", shown, f"{facts.format} with CMYK colours")
    if facts.bits > 8:
        yield Finding("deep", shown, f"{facts.bits} bits a channel")
    if facts.profile and not any(name in facts.profile.casefold() for name in _STANDARD_PROFILES):
        yield Finding("profile", shown, facts.profile)
    if facts.frames > 1:
        yield Finding("animated", shown, f"{facts.frames:,} frames")
    for note in found.notes:
        if not note.startswith(("animated", "enlarged", "more than")):
            yield Finding("remark", shown, note)


def duplicate_findings(
    found: Sequence[Examination], labels: Sequence[int], shown: Mapping[str, str], captions: Mapping[str, str]
) -> Iterator[Finding]:
    """Findings on groups of equal and nearly equal images.

    Args:
        found: Examinations of usable images.
        labels: The near-duplicate group of each.
        shown: Id -> the file as the user knows it.
        captions: Id -> its caption; images without one are missing.
    """
    exact: dict[str, list[str]] = {}
    near: dict[int, dict[str, str]] = {}
    for one, label in zip(found, labels, strict=True):
        exact.setdefault(one.sha256, []).append(one.id)
        near.setdefault(label, {}).setdefault(one.sha256, one.id)
    for ids in exact.values():
        for other in ids[1:]:
            yield Finding("exact_duplicate", shown[other], f"the same file as {shown[ids[0]]}")
        texts = {" ".join(captions[id_].split()) for id_ in ids if captions.get(id_, "").strip()}
        if len(texts) > 1:
            yield Finding("conflicting_captions", shown[ids[0]], f"{len(ids)} copies with {len(texts)} captions")
    for group in near.values():
        first, *others = group.values()
        for other in others:
            yield Finding("near_duplicate", shown[other], f"nearly the same image as {shown[first]}")


def bucket_rows(found: Sequence[Examination]) -> list[dict[str, int | float]]:
    """One row for each prepared size: images, and the share that the crop takes away on average and at most."""
    sizes: dict[tuple[int, int], list[float]] = {}
    for one in found:
        sizes.setdefault(one.target, []).append(one.cut)
    return [
        {
            "width": width,
            "height": height,
            "images": len(cuts),
            "mean_cut_percent": round(100 * math.fsum(cuts) / len(cuts), 1),
            "max_cut_percent": round(100 * max(cuts), 1),
        }
        for (width, height), cuts in sorted(sizes.items(), key=lambda item: (item[0][0] / item[0][1], item[0]))
    ]
