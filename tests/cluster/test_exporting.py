"""Exported jobs: each starts every rank once with the variables of the contract, and holds the run's own settings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loraloom.cluster.exporting import WRITERS, ExportOptions, export_job
from loraloom.config.reading import read_settings
from loraloom.config.run import RunConfig
from loraloom.config.yaml_text import parse
from loraloom.utils.errors import UserError

SETTINGS = RunConfig.model_validate(
    {"data": {"dataset": "/data/it's style"}, "train": {"output": "/data/runs/My_Run", "max_steps": 7}}
)


def options(nodes: int = 2, gpus: int = 2) -> ExportOptions:
    return ExportOptions(nodes=nodes, gpus=gpus, image="loraloom:1", port=29512, gpu_type="L4")


@pytest.mark.skipif(sys.platform == "win32", reason="runs bash")
@pytest.mark.parametrize("gpus", [0, 2])
def test_the_slurm_job_starts_every_rank_once_with_the_settings_of_the_run(tmp_path: Path, gpus: int) -> None:
    """`srun` and `scontrol` are stand-ins that start one shell a task, as Slurm does; the job is bash's own."""
    bin_folder, run = tmp_path / "bin", tmp_path / "it's a run"
    bin_folder.mkdir()
    settings = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"output": str(run)})})
    scripts = {
        "scontrol": "echo node-a; echo node-b",
        "srun": 'for p in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$p SLURM_LOCALID=$((p % T)) "${@:2}"; done',
        "loraloom": 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT|$*" >> "$OUT"',
    }
    for name, text in scripts.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_folder / name).chmod(0o755)
    job = tmp_path / "job.sh"
    job.write_text(export_job("slurm", settings, options(gpus=gpus)))
    tasks = max(1, gpus)
    env = {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "OUT": str(tmp_path / "out"),
        "T": str(tasks),
        "SLURM_NTASKS": str(2 * tasks),
        "SLURM_JOB_NODELIST": "node-[a-b]",
    }
    subprocess.run(["bash", str(job)], check=True, env=env, cwd=tmp_path)
    lines = (tmp_path / "out").read_text().splitlines()
    end = "" if gpus else " --cpu"
    assert lines == [
        f"{rank} {rank % tasks} {2 * tasks} {tasks} node-a 29512|train --config {run}/job.yaml{end}"
        for rank in range(2 * tasks)
    ]
    assert read_settings(RunConfig, run / "job.yaml") == settings


def documents(text: str) -> list[dict[str, Any]]:
    return [parse(part, "job")[0] for part in text.split("\n---\n")]


@pytest.mark.parametrize("gpus", [0, 4])
def test_the_jobset_has_one_pod_a_node_and_reads_the_settings_of_its_config_map(tmp_path: Path, gpus: int) -> None:
    config_map, job = documents(export_job("kubernetes", SETTINGS, options(nodes=3, gpus=gpus)))
    (tmp_path / "run.yaml").write_text(config_map["data"]["run.yaml"])
    assert read_settings(RunConfig, tmp_path / "run.yaml") == SETTINGS
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    inner = job["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (inner["completions"], inner["parallelism"], inner["completionMode"]) == (3, 3, "Indexed")
    (container,) = inner["template"]["spec"]["containers"]
    limits = container.get("resources", {}).get("limits", {})
    assert limits == ({"nvidia.com/gpu": gpus} if gpus else {})
    (command,) = container["args"]
    name = job["metadata"]["name"]
    assert f"--master-addr {name}-node-0-0.{name}" in command
    assert f'--nnodes 3 --nproc-per-node {max(1, gpus)} --node-rank "$JOB_COMPLETION_INDEX"' in command
    assert command.endswith("--cpu") == (gpus == 0)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in inner["template"]["spec"]["volumes"]}


def test_the_skypilot_task_asks_for_the_gpus_and_writes_the_settings(tmp_path: Path) -> None:
    (task,) = documents(export_job("skypilot", SETTINGS, options()))
    assert (task["num_nodes"], task["resources"]["accelerators"]) == (2, "L4:2")
    before, _, rest = task["run"].partition("job.yaml <<'LORALOOM_SETTINGS'\n")
    assert "set -euo pipefail" in before
    (tmp_path / "job.yaml").write_text(rest.partition("\nLORALOOM_SETTINGS\n")[0])
    assert read_settings(RunConfig, tmp_path / "job.yaml") == SETTINGS
    without = ExportOptions(nodes=1, gpus=1, image="", port=29500)
    with pytest.raises(UserError, match="type of GPU"):
        export_job("skypilot", SETTINGS, without)


@pytest.mark.parametrize("gpus", [0, 2])
def test_the_ray_script_compiles_and_holds_the_settings(tmp_path: Path, gpus: int) -> None:
    text = export_job("ray", SETTINGS, options(gpus=gpus))
    code = compile(text, "job.py", "exec")
    (settings,) = [value for value in code.co_consts if isinstance(value, str) and "max_steps" in value]
    (tmp_path / "run.yaml").write_text(settings)
    assert read_settings(RunConfig, tmp_path / "run.yaml") == SETTINGS


@pytest.mark.parametrize("to", sorted(WRITERS))
def test_a_job_without_a_dataset_is_refused(to: str) -> None:
    with pytest.raises(UserError, match="no dataset"):
        export_job(to, RunConfig(), options())


def test_an_unknown_scheduler_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="slurm"):
        export_job("slrum", SETTINGS, options())


def test_names_of_jobs_are_what_dns_allows() -> None:
    for name in ("My_Run", "한글", "a.b", "x" * 99, "-"):
        train = SETTINGS.train.model_copy(update={"output": f"runs/{name}"})
        text = export_job("kubernetes", SETTINGS.model_copy(update={"train": train}), options())
        found = documents(text)[1]["metadata"]["name"]
        assert found and len(found) <= 40 and set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert not found.startswith("-") and json.dumps(found)
