"""`loraloom cluster`: deploy, launch, status, logs, stop, doctor, export and run-all."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraloom.config.flags import ConfigFile, Given, Overrides
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.progress import table

if TYPE_CHECKING:
    from loraloom.cluster.hosts import Host
    from loraloom.cluster.launching import Cluster
    from loraloom.config.cluster import ClusterConfig

Workers = Annotated[
    list[str] | None,
    typer.Option("--workers", metavar="ADDRESS", help="Addresses of workers, with commas; user@address:port is read."),
]
WorkersFile = Annotated[
    Path | None, typer.Option("--workers-file", metavar="FILE", help="workers.json; see docs/cluster.md for its keys.")
]
ProjectPath = Annotated[
    Path | None,
    typer.Option("--project-path", metavar="FOLDER", help="Checkout to ship. [default: the one that runs]"),
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPUs even where there are GPUs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the exact commands; start and send nothing.")]


def deploy(
    given: Given, workers: Workers = None, workers_file: WorkersFile = None, project_path: ProjectPath = None
) -> None:
    """Ship the project to the workers and install its packages there."""
    from loraloom.cluster.launching import deploy_all

    cluster, _ = _open(given, workers, workers_file, project_path)

    async def work() -> bool:
        try:
            findings = await deploy_all(cluster, typer.echo)
        finally:
            await cluster.close()
        for finding in findings:
            typer.echo(str(finding))
        return not findings

    if not asyncio.run(work()):
        raise typer.Exit(1)
    typer.echo("next: loraloom cluster launch --config run.yaml, with the same workers")


def launch(
    given: Given,
    config: ConfigFile = None,
    overrides: Overrides = None,
    workers: Workers = None,
    workers_file: WorkersFile = None,
    project_path: ProjectPath = None,
    cpu: Cpu = False,
    dry_run: DryRun = False,
    skip_deploy: Annotated[
        bool, typer.Option("--skip-deploy", help="The workers have this release already; do not look.")
    ] = False,
) -> None:
    """Train on all machines; the same command takes over, or resumes, after anything that stopped it."""
    from loraloom.cluster.launching import job_of
    from loraloom.cluster.launching import launch as launch_job
    from loraloom.config.reading import read_settings
    from loraloom.config.run import RunConfig

    job = job_of(read_settings(RunConfig, config, overrides or (), {}), cpu=cpu)
    cluster, settings = _open(given, workers, workers_file, project_path)
    with _live() as (say, show):
        outcome = asyncio.run(
            launch_job(cluster, job, settings, say, show=show, dry_run=dry_run, skip_deploy=skip_deploy)
        )
    if outcome is not None and outcome.kind == "stopped":
        _say(f"stopped ({outcome.text}); the same command resumes")
    elif outcome is not None:
        _say(f"done: {job.home}")


def status(
    given: Given, workers: Workers = None, workers_file: WorkersFile = None, project_path: ProjectPath = None
) -> None:
    """Show nodes, GPUs, memory, step and images per second of every run on the workers."""
    from loraloom.cluster.watching import status_rows

    cluster, _ = _open(given, workers, workers_file, project_path)
    rows = asyncio.run(_closing(cluster, status_rows(cluster)))
    header = ("node", "run", "attempt", "ranks", "GPU", "used", "memory", "step", "images/s", "state")
    typer.echo(table(header, rows))


def logs(
    given: Given,
    run: Annotated[str, typer.Argument(help="Name of the run, as `status` shows it.")],
    workers: Workers = None,
    workers_file: WorkersFile = None,
    project_path: ProjectPath = None,
    lines: Annotated[int, typer.Option("--lines", min=1, help="Last lines of each rank.")] = 40,
) -> None:
    """Print the last lines of every rank of a run, with node and rank before each."""
    from loraloom.cluster.watching import log_lines

    cluster, _ = _open(given, workers, workers_file, project_path)
    for line in asyncio.run(_closing(cluster, log_lines(cluster, run, lines))):
        typer.echo(line)


def stop(
    given: Given,
    run: Annotated[str | None, typer.Argument(help="Name of the run; without it all runs are stopped.")] = None,
    workers: Workers = None,
    workers_file: WorkersFile = None,
    project_path: ProjectPath = None,
    now: Annotated[bool, typer.Option("--now", help="End at once; do not save a checkpoint.")] = False,
) -> None:
    """Save a checkpoint and end a run on all nodes; nothing keeps running."""
    from loraloom.cluster.watching import stop_runs

    cluster, _ = _open(given, workers, workers_file, project_path)
    texts, complete = asyncio.run(_closing(cluster, stop_runs(cluster, run, "now" if now else "polite")))
    for text in texts:
        typer.echo(text)
    if not complete:
        raise typer.Exit(1)


def doctor(
    given: Given,
    workers: Workers = None,
    workers_file: WorkersFile = None,
    project_path: ProjectPath = None,
    cpu: Cpu = False,
) -> None:
    """Check login, clock, versions, GPUs, disk and ports both ways on all nodes, and say how to repair what is wrong."""
    from loraloom.cluster.launching import preflight
    from loraloom.cluster.watching import inventory_rows

    cluster, settings = _open(given, workers, workers_file, project_path)
    reports, findings = asyncio.run(_closing(cluster, preflight(cluster, settings, cpu=cpu)))
    header = ("node", "address", "system", "GPUs", "memory", "disk free", "interface", "torch")
    typer.echo(table(header, inventory_rows(reports, cluster.addresses())))
    for finding in findings:
        typer.echo(str(finding))
    if any(finding.fatal for finding in findings):
        raise typer.Exit(1)
    typer.echo(f"{counted(len(reports), 'node')} can train")


def export(
    to: Annotated[str, typer.Option("--to", help="slurm, kubernetes, skypilot or ray.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of machines.")] = 2,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="GPUs of each machine; 0: train on CPUs.")] = 1,
    image: Annotated[
        str, typer.Option("--image", help="Container image with loraloom in it; kubernetes only.")
    ] = "loraloom:latest",
    gpu_type: Annotated[str, typer.Option("--gpu-type", help="Type of GPU, such as L4; skypilot only.")] = "",
    port: Annotated[int, typer.Option("--port", min=1024, max=65535, help="Port of rank 0.")] = 29500,
    out: Annotated[Path | None, typer.Option("--out", help="File to write. [default: print]")] = None,
) -> None:
    """Write a job that runs the same training under a scheduler."""
    from loraloom.cluster.exporting import ExportOptions, export_job
    from loraloom.config.reading import read_settings
    from loraloom.config.run import RunConfig
    from loraloom.utils.atomic_files import write_text
    from loraloom.utils.output_paths import check_file

    settings = read_settings(RunConfig, config, overrides or (), {})
    text = export_job(to, settings, ExportOptions(nodes=nodes, gpus=gpus, image=image, port=port, gpu_type=gpu_type))
    if out is None:
        typer.echo(text, nl=False)
    else:
        check_file(out)
        write_text(out, text)
        typer.echo(f"written: {out}")


def run_all(
    given: Given,
    jobs: Annotated[list[Path], typer.Argument(help="Settings files, one a job, such as jobs/*.yaml.")],
    workers: Workers = None,
    workers_file: WorkersFile = None,
    project_path: ProjectPath = None,
    cpu: Cpu = False,
) -> None:
    """Give each job to the next free machine; a lost machine loses no job."""
    from loraloom.cluster.job_queue import run_jobs
    from loraloom.cluster.launching import job_of
    from loraloom.config.reading import read_settings
    from loraloom.config.run import RunConfig

    chosen = [job_of(read_settings(RunConfig, path, (), {}), cpu=cpu) for path in jobs]
    cluster, settings = _open(given, workers, workers_file, project_path)
    read_again = (lambda: _hosts(workers, workers_file)) if workers_file else None
    results = asyncio.run(_closing(cluster, run_jobs(cluster, chosen, settings, _say, read_again=read_again)))
    typer.echo(table(("job", "node", "state", "run folder"), results.rows()))
    if not results.complete:
        raise typer.Exit(1)


COMMANDS: tuple[tuple[Any, str | None], ...] = (
    (deploy, "loraloom.config.cluster:ClusterConfig"),
    (launch, "loraloom.config.cluster:ClusterConfig"),
    (status, "loraloom.config.cluster:ClusterConfig"),
    (logs, "loraloom.config.cluster:ClusterConfig"),
    (stop, "loraloom.config.cluster:ClusterConfig"),
    (doctor, "loraloom.config.cluster:ClusterConfig"),
    (export, None),
    (run_all, "loraloom.config.cluster:ClusterConfig"),
)
"""Functions that become commands, with the settings whose flags they take."""


def _open(
    given: Given, workers: list[str] | None, workers_file: Path | None, project_path: Path | None
) -> "tuple[Cluster, ClusterConfig]":
    from loraloom.cluster.deploying import make_release
    from loraloom.cluster.launching import open_cluster, with_master
    from loraloom.config.cluster import ClusterConfig
    from loraloom.config.reading import read_settings

    settings = read_settings(ClusterConfig, None, (), given)
    hosts = with_master(_hosts(workers, workers_file), settings, sys.executable)
    return open_cluster(hosts, make_release(project_path), settings), settings


def _hosts(workers: list[str] | None, workers_file: Path | None) -> "list[Host]":
    from loraloom.cluster.hosts import hosts_of_addresses, read_hosts

    if workers and workers_file:
        raise UserError("workers are given twice", fix="use either --workers or --workers-file")
    if workers_file is None and not workers and Path("workers.json").is_file():
        typer.echo("workers: workers.json of this folder")
        workers_file = Path("workers.json")
    if workers_file is not None:
        return read_hosts(workers_file)
    if not workers and sys.stdin.isatty():
        workers = _ask_for_workers()
    return hosts_of_addresses(workers or [])


def _ask_for_workers() -> list[str]:
    """Addresses typed one by one; an empty line ends."""
    found: list[str] = []
    while text := typer.prompt(f"address of worker {len(found) + 1} (empty: no more)", default="", show_default=False):
        found.append(text.strip())
    return found


async def _closing(cluster: "Cluster", work: Any) -> Any:
    try:
        return await work
    finally:
        await cluster.close()


@contextmanager
def _live() -> Iterator[tuple[Callable[[str], None], Callable[[Any, Any], None]]]:
    """On a terminal a table of all nodes below the lines, refreshed with every answer; elsewhere lines alone."""
    if not sys.stdout.isatty():
        yield _say, lambda attempt, views: None
        return
    from rich.live import Live
    from rich.table import Table

    from loraloom.cluster.live_table import HEADER, LiveTable

    rows = LiveTable()
    with Live(refresh_per_second=2, transient=True) as display:

        def show(attempt: Any, views: Any) -> None:
            shown = Table(*HEADER, title=f"attempt {attempt.id}", title_justify="left")
            for row in rows.rows(attempt, views, time.monotonic()):
                shown.add_row(*row)
            display.update(shown)

        def say(text: str) -> None:
            with suppress(OSError):  # a terminal that was closed does not end a run
                display.console.print(text, markup=False, highlight=False, soft_wrap=True)

        yield say, show


def _say(text: str) -> None:
    """A line to the terminal. A terminal that was closed does not end a run."""
    try:
        print(text, flush=True)
    except OSError:
        return
