"""`loraloom inspect`: examine a raw folder, write `inspect.json` and `report.html`, print a summary and the repair.

In: a folder and settings. Out: two files and lines; the exit status is 1 when something is refused.
"""

import statistics
from collections.abc import Callable
from pathlib import Path

from loraloom.config.inspect import InspectConfig
from loraloom.utils.atomic_files import write_json, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.output_paths import check_folder
from loraloom.utils.progress import bars
from loraloom.utils.untrusted import is_file, parse_json, read_lines

JSON_FILE, PAGE_FILE = "inspect.json", "report.html"


def run_inspect(
    source: Path, out: Path | None, config: InspectConfig, model: str | None, say: Callable[[str], None]
) -> int:
    """Inspect, write, print; returns the exit status.

    Raises:
        UserError: As `inspect_folder`, or the output cannot be written.
    """
    from loraloom.prepare.inspection.page import page_of
    from loraloom.prepare.inspection.run import inspect_folder
    from loraloom.prepare.inspection.summary import as_json, lines_of

    name = source.resolve().name or "folder"
    target = out or Path(f"{name}-inspected")
    check_output(source, target)
    encoder = None
    if model:
        from loraloom.config.domains import open_domain
        from loraloom.models.loading import open_model
        from loraloom.prompts.encoder import PromptEncoder
        from loraloom.protocols.model import ModelSource

        domain = open_domain(config.domain, config.model_dump(mode="json"))
        encoder = PromptEncoder(text=open_model(ModelSource(location=model)).text, domain=domain)
    with bars() as bar:
        found = inspect_folder(source, config, encoder=encoder, model=model, dataset=Path(f"{name}-dataset"), bars=bar)
    say(f"read {source} as {found.source.choice.format.name}: {found.source.choice.reason}")
    for line in lines_of(found):
        say(line)
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_json(target / JSON_FILE, as_json(found, strict=config.strict))
        write_text(target / PAGE_FILE, page_of(found))
    except OSError as error:
        raise UserError("the output cannot be written", got=f"{target}: {error.strerror}", fix="check --out") from error
    say(f"look at {target / PAGE_FILE}; all findings are in {target / JSON_FILE}")
    say(f"next: {found.command}")
    return found.exit_status(strict=config.strict)


def check_output(source: Path, out: Path) -> None:
    """Refuse to write into the source, or among files that somebody else made.

    Raises:
        UserError: It would.
    """
    check_folder(out)
    here, there = source.resolve() if source.exists() else source.absolute(), out.resolve()
    if there == here or there.is_relative_to(here):
        raise UserError("the report would lie in its own source", got=str(out), fix="choose an --out beside it")
    if out.exists() and not out.is_dir():
        raise UserError("the output is a file", got=str(out), fix="choose another --out")
    if out.is_dir() and not (out / JSON_FILE).exists() and any(out.iterdir()):
        fix = "choose a new folder with --out: nothing of yours is overwritten"
        raise UserError("the output folder is not empty and no earlier report", got=str(out), fix=fix)


def with_speed_of(run: Path, config: InspectConfig) -> InspectConfig:
    """The settings with the seconds of an update, and the batch size, of an earlier run where they leave them open.

    Raises:
        UserError: No run, another batch size than the user gave, or a run that recorded no speed.
    """
    from loraloom.config.reading import read_settings
    from loraloom.config.run import RunConfig

    if not is_file(run / "run.yaml") or not is_file(run / "events.jsonl"):
        raise UserError("--run names no run", got=str(run), fix="name a folder that `loraloom train` wrote")
    if config.step_seconds is not None:
        raise UserError("--run and --step-seconds both say how long an update takes", fix="choose one")
    settings = read_settings(RunConfig, run / "run.yaml")
    batch_size = settings.data.batch_size * settings.train.gradient_accumulation
    if "batch_size" in config.model_fields_set and config.batch_size != batch_size:
        fix = f"leave out --batch-size, or give --step-seconds for batch {config.batch_size}"
        raise UserError("the run has another batch size", got=batch_size, expected=config.batch_size, fix=fix)
    speeds: list[float] = []
    for number, line in read_lines(run / "events.jsonl", "the run's events"):
        row = parse_json(line, f"events.jsonl line {number}", constants=True)
        speed = row.get("steps_per_second") if isinstance(row, dict) else None
        if isinstance(speed, (int, float)) and 1e-9 < speed < 1e9:
            speeds.append(float(speed))
    if not speeds:
        raise UserError("the run recorded no speed", got=str(run), fix="name one that trained for some steps")
    return config.model_copy(update={"step_seconds": 1 / statistics.median(speeds), "batch_size": batch_size})
