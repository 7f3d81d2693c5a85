"""Import a dataset of plans: `input_text/` and `label_floorplan/` in a folder that `prepare` reads.

In: a folder of one of `SOURCES`. Out: plans in the colours of a style, texts that are true of their pixels or the source's own
words, `splits.json` by graph, and `problems.jsonl`. Each plan is read back from its image before it is written. An interrupted
import continues: what is written and whose source has not changed is kept.
"""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from loraloom.utils.atomic_files import sha256_bytes, sha256_file, write_bytes, write_json, write_text
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.parallel import spread
from loraloom.utils.safe_paths import safe_name
from loraloom.utils.untrusted import is_file, is_there, parse_json, parse_record, read_lines

from ..plan import MOST_ROOMS, annotate
from ..render.painting import png_of
from ..synthesis.dataset import IMAGES, SPLITS, TEXTS, Progress
from ..synthesis.graphs import graph_hash, split_of
from ..text.spec import print_spec, spec_of
from .raster import add_windows
from .sources import SOURCES, Item, Source

RECORD, PROBLEMS = "import.jsonl", "problems.jsonl"
Words = Literal["auto", "original", "structured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Settings of an import, the same for every plan.

    Attributes:
        out: Folder of the pairs.
        source: Key in `SOURCES`.
        style: Key in `STYLES`.
        words: `structured`: the text that is true of the pixels; `original`: the source's words; `auto`: those where there
            are some.
        windows: Whether windows are added by the rule of the real images.
    """

    out: Path
    source: str
    style: str
    words: Words
    windows: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one plan: its row for `import.jsonl`, or the reason why there is none."""

    id: str
    name: str = ""
    row: tuple[str, str, str, str] | None = None
    """sha256 of source, image and text, and the graph hash."""
    notes: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of `import.jsonl`: the name of a pair, its sums, its graph hash and its notes."""

    name: str
    row: tuple[str, ...]


def choose_source(folder: Path, name: str) -> tuple[Source, list[Item]]:
    """The source called `name`, or with `auto` the first whose layout the folder has, and its items.

    Raises:
        UserError: No such folder, no such source, or the folder has no layout that is known.
    """
    if not folder.is_dir():
        raise UserError("the source is not a folder", got=str(folder), fix="name the folder that you unpacked")
    if name != "auto" and name not in SOURCES:
        raise UserError("unknown dataset of plans", got=name, fix=did_you_mean(name, SOURCES))
    for source in SOURCES.values() if name == "auto" else [SOURCES[name]]:
        if items := source.items(folder):
            return source, items
    listed = "\n".join(f"    {source.name}: {source.expects}" for source in SOURCES.values())
    raise UserError(f"{folder} has none of the known layouts", fix=f"it has to look like one of these:\n{listed}")


def import_plans(
    items: list[Item],
    job: Job,
    *,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
    workers: int = 1,
    validation_share: float = 0.1,
    strict: bool = False,
) -> int:
    """Write the pairs; returns their number.

    Raises:
        UserError: The folder holds something else, nothing can be imported, or with `strict` a plan cannot or was read in
            another way.
    """
    known = _known(job)
    for name in (TEXTS, IMAGES):
        (job.out / name).mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    tasks = ((item, known.get(_name(item))) for item in items)
    done = spread(partial(import_one, job), tasks, min(workers, len(items)), chunk=8)
    with closing(done), _record(job).open("a", encoding="utf-8", newline="\n") as record:
        record.write("\n")  # ends a line that a kill cut short
        for outcome in done:
            outcomes.append(outcome)
            if outcome.row is not None:
                record.write(_row_line(outcome))
                record.flush()
            if progress is not None:
                progress(len(outcomes), len(items))
    made = {outcome.id: outcome for outcome in outcomes if outcome.row is not None}
    problems = [outcome for outcome in outcomes if outcome.problem is not None]
    lines = [json.dumps({"plan": one.id, "used": False, "reason": one.problem}, ensure_ascii=False) for one in problems]
    lines += [
        json.dumps({"plan": one.id, "used": True, "reason": note}, ensure_ascii=False)
        for one in outcomes
        for note in one.notes
    ]
    write_text(job.out / PROBLEMS, "".join(line + "\n" for line in lines))
    counted = [
        f"{number:,} not imported: {reason}: {next(one.id for one in problems if (one.problem or '').startswith(reason))}"
        for reason, number in Counter((one.problem or "").partition(":")[0] for one in problems).most_common()
    ]
    notes = Counter(note for one in made.values() for note in one.notes).most_common()
    counted += [f"{number:,} of {len(made):,}: {note}" for note, number in notes]
    for line in counted:
        say(f"  {line}")
    if not made:
        raise UserError("no plan can be imported", got="; ".join(counted) or None, fix=f"see {job.out / PROBLEMS}")
    if strict and counted:
        fix = f"see {job.out / PROBLEMS}; leave out --strict to continue"
        raise UserError(
            f"{len(problems):,} plans are not imported, {len(notes)} kinds of notes, and --strict is on", fix=fix
        )
    _finish(job, made, validation_share)
    return len(made)


def _name(item: Item) -> str:
    """The name of an item's files."""
    return safe_name(item.id).replace("/", "_")


def import_one(job: Job, task: tuple[Item, list[str] | None]) -> Outcome:
    """Read one plan and write its pair; a pair that an earlier import wrote is kept.

    Args:
        job: The settings.
        task: The plan, and its row in `import.jsonl`.
    """
    item, row = task
    name = _name(item)
    image, text = job.out / IMAGES / f"{name}.png", job.out / TEXTS / f"{name}.txt"
    try:
        sum_in = sha256_file(item.file)
        if (
            row
            and row[0] == sum_in
            and all(is_file(path) and sha256_file(path) == total for path, total in ((image, row[1]), (text, row[2])))
        ):
            return Outcome(id=item.id, name=name, row=(row[0], row[1], row[2], row[3]), notes=tuple(row[4:]))
        found = SOURCES[job.source].read(item)
        labels = add_windows(found.labels) if job.windows else found.labels
        plan = annotate(labels)
    except (RefusedError, UserError, OSError) as error:
        return Outcome(id=item.id, problem=error.what if isinstance(error, UserError) else str(error))
    if not plan.rooms or len(plan.rooms) > MOST_ROOMS:
        return Outcome(id=item.id, problem=f"it has {len(plan.rooms)} rooms")
    notes = [*found.notes]
    spec = spec_of(plan, job.style)
    if not found.has_doors:
        spec = replace(spec, connections=None)
    elif found.connections is not None and len(plan.connections) != found.connections:
        notes.append("the doors that its pixels show are not those that its file states")
    if len(plan.rooms) > 2 and not plan.positions:
        notes.append("its walls are too thick for position sentences")
    words = print_spec(spec)
    if job.words != "structured" and found.words:
        words = found.words
    elif job.words == "original":
        return Outcome(id=item.id, problem="it has no words of its own")
    png, encoded = png_of(labels, job.style), words.encode()
    write_bytes(image, png)
    write_bytes(text, encoded)
    row = (sum_in, sha256_bytes(png), sha256_bytes(encoded), graph_hash(plan))
    return Outcome(id=item.id, name=name, row=row, notes=tuple(notes))


def _settings(job: Job) -> dict[str, object]:
    return {"source": job.source, "style": job.style, "words": job.words, "windows": job.windows}


def _record(job: Job) -> Path:
    return job.out / RECORD


def _row_line(outcome: Outcome) -> str:
    assert outcome.row is not None
    return json.dumps({"name": outcome.name, "row": [*outcome.row, *outcome.notes]}, ensure_ascii=False) + "\n"


def _known(job: Job) -> dict[str, list[str]]:
    """The rows of an earlier import into the folder; a folder that holds something else is refused."""
    record = _record(job)
    if not is_there(record):
        if job.out.is_dir() and any(job.out.iterdir()):
            fix = "choose a new folder with --out: nothing of yours is overwritten"
            raise UserError("the output folder is not empty and no import", got=str(job.out), fix=fix)
        job.out.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps({"settings": _settings(job)}) + "\n")
        return {}
    lines = read_lines(record, str(record))
    _, first = next(lines, (0, "{}"))
    settings: Any = parse_json(first, f"{record} line 1")
    if settings != {"settings": _settings(job)}:
        fix = "choose another --out, or the same settings"
        raise UserError(f"{job.out} holds an import with other settings", got=first[:120], fix=fix)
    found: dict[str, list[str]] = {}
    for number, line in lines:
        try:
            row = parse_record(_Row, line, f"{record} line {number}")
        except UserError:
            continue  # cut short by a kill: the plan is imported again
        if len(row.row) >= 4:
            found[row.name] = list(row.row)
    return found


def _finish(job: Job, made: dict[str, Outcome], validation_share: float) -> None:
    """Write the record anew, with one line a plan, and the split."""
    splits: dict[str, list[str]] = {"train": [], "validation": []}
    lines = [json.dumps({"settings": _settings(job)}) + "\n"]
    for outcome in made.values():
        assert outcome.row is not None
        splits[split_of(outcome.row[3], validation_share)].append(outcome.name)
        lines.append(_row_line(outcome))
    write_text(_record(job), "".join(lines))
    write_json(job.out / SPLITS, {"validation_share": validation_share, **splits})
