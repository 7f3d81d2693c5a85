"""`inspect`, whole: a raw folder to findings, a page to look at, a file for programs, and the command that repairs.

In: a folder and `InspectConfig`. Out: `inspect.json`, `report.html` and an `Inspection`. Nothing in the source is changed, and
no dataset is written.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loraloom import plugins
from loraloom.config.domains import open_domain
from loraloom.config.extending import unused_lines
from loraloom.config.inspect import InspectConfig
from loraloom.data.bucket_sampler import Plan
from loraloom.data.ledger import Ledger, make_ledger, updates_sentence
from loraloom.prepare.caption_edits import final_caption
from loraloom.prepare.duplicates import held_out, near_duplicate_groups
from loraloom.prepare.folder_numbers import FolderNumbers
from loraloom.prepare.images import ImageSettings, target_size
from loraloom.prepare.inspection import captions as lint
from loraloom.prepare.inspection.examine import Examination, ExamineTask, examine_all
from loraloom.prepare.inspection.findings import KINDS, LEVELS, PURPOSES, Finding, Thresholds
from loraloom.prepare.inspection.image_verdicts import bucket_rows, duplicate_findings, image_findings
from loraloom.prepare.inspection.repair import advised, command_line
from loraloom.prepare.inspection.tables import GroupRow, concept_of, folder_of, group_rows
from loraloom.prepare.leftovers import check_captions
from loraloom.prepare.source import Source, read_source
from loraloom.protocols.data import SourceItem
from loraloom.protocols.domain import Domain
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress

if TYPE_CHECKING:  # without a model no torch: it takes seconds, and workers could not be forked
    from loraloom.prompts.encoder import PromptEncoder

MAX_THUMBNAILS = 200
MAX_WINDOWS = 8
"""`prompts.max_windows` of a training, unless it is set there."""
_FEWEST_TO_SPLIT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        source: The folder, its layout and its items.
        thresholds: What verdicts were made by.
        findings: All findings, the gravest kinds first.
        found: The examination of every item that has no other problem, by id, without thumbnails.
        shown: Id -> the file as the user knows it.
        captions: Id -> the text found; None where there is none.
        tokens: Id -> exact tokens of its final caption; empty where no model was named.
        folders, concepts: Counted rows.
        buckets: Prepared sizes, and what is cut off for them.
        near_groups: Ids of images that are nearly the same.
        thumbnails: Id -> JPEG bytes.
        ledger: What an epoch of the images that can be used shows; None when there are none.
        sentence: Images, epochs, updates and time.
        command: The `prepare` command that is advised.
        seconds: Wall time.
    """

    source: Source
    thresholds: Thresholds
    findings: tuple[Finding, ...]
    found: Mapping[str, Examination]
    shown: Mapping[str, str]
    captions: Mapping[str, str | None]
    tokens: Mapping[str, int]
    folders: tuple[GroupRow, ...]
    concepts: tuple[GroupRow, ...]
    buckets: tuple[Mapping[str, Any], ...]
    near_groups: tuple[tuple[str, ...], ...]
    thumbnails: Mapping[str, bytes]
    ledger: Ledger | None
    sentence: str
    command: str
    seconds: float

    def by_kind(self) -> list[tuple[str, list[Finding]]]:
        """Findings by code, in the order of the table of kinds."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(finding.code, []).append(finding)
        return list(groups.items())

    def exit_status(self, *, strict: bool) -> int:
        """1 when something is refused, or with `strict` when there is a warning; else 0."""
        levels = {KINDS[finding.code].level for finding in self.findings}
        return int("refuse" in levels or (strict and "warn" in levels))


def inspect_folder(
    source: Path,
    config: InspectConfig,
    *,
    encoder: "PromptEncoder | None" = None,
    model: str | None = None,
    dataset: Path = Path("dataset"),
    bars: Callable[[str], Progress] | None = None,
) -> Inspection:
    """Examine all images and captions of a folder.

    Args:
        source: Folder with images and texts.
        config: All settings.
        encoder: Counts tokens; None leaves them open.
        model: The model that the user named, for the advised command.
        dataset: `--out` of the advised command.
        bars: Makes a progress callback for each titled piece of work.

    Raises:
        UserError: No folder, no known layout, or settings that do not fit together.
    """
    started = time.perf_counter()
    thresholds = Thresholds.from_config(config)
    settings = _settings(config)
    raw = read_source(source, config)
    numbers = FolderNumbers.of(config, raw.classes)
    items = {item.id: item for item in raw.items if item.problem is None}
    shown = {id_: raw.shown(item) for id_, item in items.items()}
    few_enough = len(items) <= MAX_THUMBNAILS
    domain = open_domain(config.domain, config.model_dump())
    how = {"settings": settings, "numbers": numbers, "domain": domain, "num_workers": config.num_workers}
    examined = partial(_examined, **how, bars=bars)
    found = examined(items, title="images", thumbnails=few_enough)
    thumbnails = {id_: jpeg for id_ in items if (jpeg := found[id_].thumbnail)}
    found = {id_: replace(found[id_], thumbnail=None) for id_ in items}
    captions = {id_: item.caption for id_, item in items.items()}
    usable = [one for one in found.values() if one.problem is None]
    labels = _labels(usable, config.near_duplicate_bits)
    texts = {id_: text for id_, text in captions.items() if text and text.strip()}
    every, named = _every_caption(items, texts, shown)
    tokens: dict[str, int] = {}
    findings = [
        *_source_findings(raw, config),
        *(finding for id_, one in found.items() for finding in image_findings(one, shown[id_], thresholds)),
        *duplicate_findings(usable, labels, shown, texts),
        *_caption_findings(texts, captions, raw, config, thresholds, domain, shown),
        *lint.trigger_findings(every, config.trigger, named),
        *lint.sided_findings(every, domain, named),
        *_token_findings(every, config.trigger, encoder, named, tokens, bars),
        *_few(found, raw, thresholds),
        *(Finding("not_read", "settings", line) for line in numbers.unknown(list(items))),
    ]
    findings.sort(key=_gravity)
    if not few_enough:
        wanted = _worth_showing(findings, shown, found)
        chosen = {id_: items[id_] for id_ in wanted}
        again = examined(chosen, title="thumbnails", thumbnails=True)
        thumbnails = {id_: jpeg for id_ in wanted if (jpeg := again[id_].thumbnail)}
    repeats = {id_: numbers.repeats_of(id_) for id_ in items}
    advice = advised(config, Counter(one.code for one in findings), thresholds, coded=_coded(texts, domain))
    ledger = _ledger(usable, labels, numbers, config, settings, thresholds, raw)
    return Inspection(
        source=raw,
        thresholds=thresholds,
        findings=tuple(findings),
        found=found,
        shown=shown,
        captions=captions,
        tokens=tokens,
        folders=tuple(group_rows({id_: folder_of(id_) for id_ in items}, found, repeats, captions, tokens)),
        concepts=tuple(group_rows({id_: _concept(id_, raw) for id_ in items}, found, repeats, captions, tokens)),
        buckets=tuple(bucket_rows(usable)),
        near_groups=tuple(_near_groups(usable, labels)),
        thumbnails=thumbnails,
        ledger=ledger,
        sentence=_sentence(ledger, config),
        command=command_line(source, dataset, config, advice, model),
        seconds=time.perf_counter() - started,
    )


def _coded(texts: Mapping[str, str], domain: Domain) -> bool:
    """Whether colours encode classes in any of the images."""
    return any(domain.colours(text) for text in texts.values())


def _settings(config: InspectConfig) -> ImageSettings:
    """The settings of `prepare`, but every size is decoded, for a verdict on it, and nothing is enlarged by a model."""
    settings = ImageSettings.from_config(config)
    return replace(settings, min_size=1, upscaler="", upscaler_sha256="", max_enlargement=None)


def _every_caption(
    items: Mapping[str, SourceItem], texts: Mapping[str, str], shown: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """All captions by a name, which is the id for the first one of an image; and what each is called for the user."""
    every, named = dict(texts), dict(shown)
    for id_, item in items.items():
        for number, text in enumerate(item.more_captions, 2):
            every[f"{id_} caption {number}"] = text
            named[f"{id_} caption {number}"] = f"{shown[id_]} caption {number}"
    return every, named


def _gravity(finding: Finding) -> tuple[int, int, str, str]:
    """Sorting key: the gravest level first, then kinds in the order of their table."""
    return LEVELS.index(KINDS[finding.code].level), list(KINDS).index(finding.code), finding.where, finding.text


def _examined(
    items: Mapping[str, Any],
    *,
    settings: ImageSettings,
    numbers: FolderNumbers,
    domain: Domain,
    num_workers: int,
    bars: Callable[[str], Progress] | None,
    title: str,
    thumbnails: bool,
) -> dict[str, Examination]:
    tasks = [
        ExamineTask(id_, item.image, thumbnails, item.data, numbers.sizes_of(id_)[0]) for id_, item in items.items()
    ]
    advance = bars(title) if bars else None
    found: dict[str, Examination] = {}
    with closing(examine_all(tasks, settings, domain, num_workers)) as results:
        for done, one in enumerate(results, start=1):
            found[one.id] = one
            if advance:
                advance(done, len(tasks))
    return found


def _source_findings(raw: Source, config: InspectConfig) -> Iterator[Finding]:
    """Files that the layout cannot use or does not name, and settings that nothing reads."""
    for item in raw.items:
        if item.problem is not None:
            yield Finding("unusable", raw.shown(item), item.problem)
        for note in item.notes:
            yield Finding("remark", raw.shown(item), note)
    for problem in raw.leftovers.problems:
        yield Finding("not_read", problem.file, problem.reason)
    captioner, domain = plugins.load("captioners", config.captioner), plugins.load("domains", config.domain)
    used = {"formats": raw.choice.format, "captioners": captioner, "domains": domain}
    for line in unused_lines(config, used):
        yield Finding("not_read", "settings", line)
    if not raw.classes:
        try:
            check_captions(raw.items, raw.leftovers, config.captioner)
        except UserError as error:
            yield Finding("captions_missed", raw.folder.name, " ".join(str(error).split()))


def _caption_findings(
    texts: Mapping[str, str],
    captions: Mapping[str, str | None],
    raw: Source,
    config: InspectConfig,
    thresholds: Thresholds,
    domain: Domain,
    shown: Mapping[str, str],
) -> Iterator[Finding]:
    yield from lint.text_findings(
        {id_: text for id_, text in captions.items() if id_ not in raw.classes or text is not None}, shown
    )
    if thresholds.purpose == "layout":
        return  # such captions are made of the same phrases by design
    by_concept: dict[str, list[str]] = {}
    headers = {section.header for text in texts.values() for section in domain.sections(text) if section.header}
    for id_, text in texts.items():
        by_concept.setdefault(_concept(id_, raw), []).append(text)
    for concept, members in sorted(by_concept.items()):
        for phrase, number in lint.common_phrases(members, thresholds.common_share, config.trigger, frozenset(headers)):
            yield Finding("common_phrase", concept, f"{phrase!r} stands in {number:,} of {len(members):,} captions")


def _token_findings(
    texts: Mapping[str, str],
    trigger: str,
    encoder: "PromptEncoder | None",
    shown: Mapping[str, str],
    tokens: dict[str, int],
    bars: Callable[[str], Progress] | None,
) -> Iterator[Finding]:
    """Findings on lengths; adds the counts to `tokens`."""
    if encoder is None:
        if texts:
            yield Finding("unknown_words", "captions", "no --model was named")
        return
    yield from lint.split_findings(trigger, encoder.text.tokenizer)
    advance = bars("captions") if bars else None
    windows: dict[str, int] = {}
    unlimited = replace(encoder, max_windows=1 << 30)
    for done, (id_, text) in enumerate(texts.items(), start=1):
        plan = unlimited.plan(final_caption(text, trigger))
        tokens[id_], windows[id_] = plan.num_tokens, len(plan.windows)
        if advance:
            advance(done, len(texts))
    capacity = encoder.text.tokenizer.window_tokens - 2
    yield from lint.length_findings(tokens, windows.__getitem__, capacity, MAX_WINDOWS, shown)


def _few(found: Mapping[str, Examination], raw: Source, thresholds: Thresholds) -> Iterator[Finding]:
    counts = Counter(_concept(id_, raw) for id_, one in found.items() if one.problem is None)
    for concept, number in sorted(counts.items()):
        if number >= thresholds.few_images:
            continue
        enough = [name for name, purpose in PURPOSES.items() if number >= purpose.few_images]
        other = f"; enough for --purpose {enough[0]}" if enough else ""
        text = f"{counted(number, 'image')}; {thresholds.few_images:,} are advised for a {thresholds.purpose}"
        yield Finding("few", concept, text + other)


def _concept(item_id: str, raw: Source) -> str:
    known = raw.classes.get(item_id)
    return concept_of(item_id, raw.folder.resolve().name, known.name if known else None)


def _labels(usable: Sequence[Examination], bits: int) -> list[int]:
    if not usable:
        return []
    return near_duplicate_groups(np.array([one.hashes for one in usable], dtype=np.uint64), bits).tolist()


def _near_groups(usable: Sequence[Examination], labels: Sequence[int]) -> list[tuple[str, ...]]:
    groups: dict[int, list[str]] = {}
    for one, label in zip(usable, labels, strict=True):
        groups.setdefault(label, []).append(one.id)
    return sorted((tuple(ids) for ids in groups.values() if len(ids) > 1), key=lambda ids: (-len(ids), ids))


def _worth_showing(
    findings: Iterable[Finding], shown: Mapping[str, str], found: Mapping[str, Examination]
) -> list[str]:
    """Ids of the images whose thumbnails tell most: some of each kind of finding in turn, then the first ones."""
    ids = {file: id_ for id_, file in shown.items()}
    by_kind: dict[str, list[str]] = {}
    for finding in findings:
        id_ = ids.get(finding.where)
        if id_ is not None and found[id_].problem is None:
            by_kind.setdefault(finding.code, []).append(id_)
    chosen: dict[str, None] = {}
    for place in range(MAX_THUMBNAILS):
        for members in by_kind.values():
            if place < len(members):
                chosen.setdefault(members[place])
    for id_, one in found.items():
        if len(chosen) >= MAX_THUMBNAILS:
            break
        if one.problem is None:
            chosen.setdefault(id_)
    return list(chosen)[:MAX_THUMBNAILS]


def _ledger(
    usable: Sequence[Examination],
    labels: Sequence[int],
    numbers: FolderNumbers,
    config: InspectConfig,
    settings: ImageSettings,
    thresholds: Thresholds,
    raw: Source,
) -> Ledger | None:
    """The ledger of the images that would be trained on: not too small, not held out, at all sizes."""
    large = [
        (one, label)
        for one, label in zip(usable, labels, strict=True)
        if one.scale <= thresholds.max_enlargement and min(one.width, one.height) >= thresholds.min_side
    ]
    share = config.validation_share if len(large) >= _FEWEST_TO_SPLIT else 0.0
    held = held_out([label for _, label in large], [one.sha256 for one, _ in large], share, config.seed)
    if raw.given is not None and config.validation_share > 0:
        held = [one.id in raw.given for one, _ in large]
    kept = [one for (one, _), is_held in zip(large, held, strict=True) if not is_held]
    rows = [(one.id, one.target) for one in kept]
    for one in kept:
        for size in numbers.sizes_of(one.id)[1:]:
            width, height = target_size(one.width, one.height, replace(settings, size=size))
            if max(width / one.width, height / one.height) <= 1:
                rows.append((one.id, (width, height)))
    if not rows:
        return None
    plan = Plan(
        sizes=tuple(size for _, size in rows),
        batch_size=config.batch_size,
        num_devices=1,
        accumulation=1,
        seed=0,
        repeats=tuple(numbers.repeats_of(id_) for id_, _ in rows),
        weights=tuple(numbers.weight_of(id_) for id_, _ in rows),
        batch_sizes=tuple(numbers.batch_size_of(id_) for id_, _ in rows),
    )
    return make_ledger(plan, [id_ for id_, _ in rows])


def _sentence(ledger: Ledger | None, config: InspectConfig) -> str:
    if ledger is None:
        return "no image can be trained on"
    steps = max(1, round(config.epochs * ledger.steps_per_epoch))
    sentence = updates_sentence(ledger, steps=steps, step_seconds=config.step_seconds)
    if config.step_seconds is None:
        sentence += "; for the time add --run RUN, or --step-seconds, which `loraloom train --dry-run` measures"
    return sentence
