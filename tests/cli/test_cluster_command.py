"""`loraloom cluster` as it is typed: plans without a network, mistakes before anything is contacted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loraloom.config.yaml_text import dump


def cluster(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loraloom", "cluster", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with settings, a dataset and a file of workers."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.jsonl").write_text("{}\n")
    settings = {"data": {"dataset": "data"}, "train": {"output": "runs/style", "max_steps": 5}}
    (tmp_path / "run.yaml").write_text(dump(settings))
    rows = [
        {"IPAddress": "127.0.0.2", "ComputerName": "bob", "GPUCount": 2},
        {"IPAddress": "127.0.0.3", "ComputerName": "win", "System": "windows"},
    ]
    (tmp_path / "workers.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_dry_run_prints_the_exact_commands_and_contacts_nobody(place: Path) -> None:
    ran = cluster(place, "launch", "--config", "run.yaml", "--dry-run", "--master-address", "192.168.0.10")
    assert ran.returncode == 0, ran.stderr
    assert "workers: workers.json of this folder" in ran.stdout
    assert "4 processes on 3 nodes" in ran.stdout
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("[bob 2]")]
    for word in ("RANK=2", "LOCAL_RANK=1", "WORLD_SIZE=4", "MASTER_ADDR=192.168.0.10", "-m loraloom train"):
        assert word in line
    assert "USE_LIBUV=0" in next(line for line in ran.stdout.splitlines() if line.startswith("[win 3]"))
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["launch", "--config", "run.yaml", "--workers", "a", "--workers-file", "workers.json"], "given twice"),
        (["launch", "--config", "run.yaml", "--workers", "a;b"], "not an address"),
        (["launch", "--config", "run.yaml", "--set", "data.dataset=none", "--dry-run"], "the dataset is not here"),
        (["launch", "--config", "run.yaml", "--lease", "10", "--dry-run"], "--lease must be longer than --suspect"),
        (["launch", "--config", "run.yaml", "--workers", "10.0.0.2", "--project-path", "data"], "not a project"),
        (["export", "--to", "slrum", "--config", "run.yaml"], "did you mean 'slurm'"),
        (["lunch"], "did you mean 'launch'"),
    ],
)
def test_a_mistake_is_one_message_with_status_2(place: Path, words: list[str], text: str) -> None:
    ran = cluster(place, *words)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert text in ran.stderr
    assert "Traceback" not in ran.stderr


def test_without_workers_it_asks_only_on_a_terminal(tmp_path: Path, place: Path) -> None:
    (place / "workers.json").unlink()
    ran = cluster(place, "status")
    assert ran.returncode == 2
    assert "no workers" in ran.stderr


def test_an_exported_job_is_written_whole(place: Path) -> None:
    ran = cluster(place, "export", "--to", "slurm", "--config", "run.yaml", "--nodes", "3", "--out", "job.sh")
    assert ran.returncode == 0, ran.stderr
    assert "#SBATCH --nodes=3" in (place / "job.sh").read_text()


def test_help_of_the_group_imports_no_torch(place: Path) -> None:
    script = (
        "import sys\nsys.argv = ['loraloom', 'cluster', '--help']\n"
        "from loraloom.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'asyncssh', 'numpy'} & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for verb in ("deploy", "launch", "status", "logs", "stop", "doctor", "export", "run-all"):
        assert verb in ran.stdout
