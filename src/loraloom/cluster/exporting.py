"""Jobs for schedulers that run the same training: Slurm, Kubernetes (JobSet), SkyPilot, Ray.

In: the run's settings. Out: one file as text with the settings inside, so that the job does not depend on a file that was
edited since. The scheduler starts the processes, each with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; it also starts them
again after a fault, and `loraloom train` resumes. Paths in the settings must exist on the scheduler's machines.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from loraloom.cluster.plan import run_name
from loraloom.config.reading import to_yaml
from loraloom.config.run import RunConfig
from loraloom.utils.errors import UserError, did_you_mean

MARK = "LORALOOM_SETTINGS"
GRACE_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What the settings of a run do not say.

    Attributes:
        nodes: Machines.
        gpus: GPUs of each; 0: CPUs.
        image: Container image.
        port: Port of rank 0.
        gpu_type: Name of the GPU as the scheduler lists it; SkyPilot only.
    """

    nodes: int
    gpus: int
    image: str
    port: int
    gpu_type: str = ""

    @property
    def processes(self) -> int:
        """Processes of each machine."""
        return max(1, self.gpus)


def export_job(to: str, settings: RunConfig, options: ExportOptions) -> str:
    """The job as text.

    Raises:
        UserError: The scheduler is not known, the settings have no dataset, or a scheduler's own value is missing.
    """
    if to not in WRITERS:
        raise UserError("unknown scheduler", got=to, fix=did_you_mean(to, WRITERS))
    if not settings.data.dataset:
        raise UserError("no dataset", fix="set data.dataset to its folder on the scheduler's machines")
    return WRITERS[to](settings, options)


def _name(settings: RunConfig) -> str:
    """Name of the job: what DNS allows, for it becomes part of host names."""
    name = run_name(PurePosixPath(settings.train.output.replace("\\", "/")).name).lower()
    return name.replace("_", "-").replace(".", "-")[:40].strip("-") or "run"


def _train(options: ExportOptions, config: str) -> str:
    return f"loraloom train --config {config}" + ("" if options.gpus else " --cpu")


def _settings(settings: RunConfig) -> str:
    text = to_yaml(settings)
    assert MARK not in text
    return text


def slurm(settings: RunConfig, options: ExportOptions) -> str:
    """A script for `sbatch`: one task a process; Slurm's SIGTERM before the time limit saves a checkpoint."""
    gpus = [f"#SBATCH --gpus-per-node={options.gpus}"] if options.gpus else []
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={_name(settings)}",
        f"#SBATCH --nodes={options.nodes}",
        f"#SBATCH --ntasks-per-node={options.processes}",
        *gpus,
        f"#SBATCH --signal=TERM@{GRACE_S}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "set -euo pipefail",
        f"RUN={shlex.quote(settings.train.output)}",
        'mkdir -p "$RUN"',
        f"cat > \"$RUN/job.yaml\" <<'{MARK}'",
        _settings(settings).rstrip("\n"),
        MARK,
        'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)',
        f"export RUN MASTER_ADDR MASTER_PORT={options.port}",
        # One shell a task: each has its own SLURM_PROCID. `exec` lets the signal reach Python.
        "# shellcheck disable=SC2016",
        "srun --kill-on-bad-exit=1 bash -c '",
        "  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS",
        f"  export LOCAL_WORLD_SIZE={options.processes}",
        f"  exec {_train(options, chr(34) + '$RUN/job.yaml' + chr(34))}",
        "'",
    ]
    return "\n".join(lines) + "\n"


def _torchrun(options: ExportOptions, rank: str, master: str, config: str) -> str:
    """torchrun with static ranks; it starts nothing again: the scheduler does."""
    return (
        f"torchrun --nnodes {options.nodes} --nproc-per-node {options.processes} --node-rank {rank} "
        f"--master-addr {master} --master-port {options.port} --max-restarts 0 "
        f"-m {_train(options, config)}"
    )


def kubernetes(settings: RunConfig, options: ExportOptions) -> str:
    """A ConfigMap and a JobSet (jobset.x-k8s.io): one pod a machine, all started again together after a fault."""
    name = _name(settings)
    limits = (
        f"\n                resources:\n                  limits:\n                    nvidia.com/gpu: {options.gpus}"
    )
    command = _torchrun(options, '"$JOB_COMPLETION_INDEX"', f"{name}-node-0-0.{name}", "/settings/run.yaml")
    return f"""\
# kubectl apply -f this file; needs the JobSet controller, and a volume claim `loraloom` that all pods can write.
# The folders of dataset and run in the settings must be below /work, where the claim is mounted.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}-settings
data:
  run.yaml: |
{_indented(_settings(settings), 4)}
---
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
spec:
  network:
    enableDNSHostnames: true
  failurePolicy:
    maxRestarts: 5
  replicatedJobs:
    - name: node
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          completions: {options.nodes}
          parallelism: {options.nodes}
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: {GRACE_S}
              containers:
                - name: train
                  image: {_quoted(options.image)}
                  workingDir: /work
                  command: ["bash", "-c"]
                  args:
                    - exec {command}{limits.replace(chr(10), chr(10) + "  ") if options.gpus else ""}
                  volumeMounts:
                    - name: work
                      mountPath: /work
                    - name: settings
                      mountPath: /settings
                    - name: memory
                      mountPath: /dev/shm
              volumes:
                - name: work
                  persistentVolumeClaim:
                    claimName: loraloom
                - name: settings
                  configMap:
                    name: {name}-settings
                - name: memory
                  emptyDir:
                    medium: Memory
"""


def skypilot(settings: RunConfig, options: ExportOptions) -> str:
    """A task for `sky launch`, or for `sky jobs launch`, which also starts it again.

    Raises:
        UserError: GPUs are asked for without their type.
    """
    if options.gpus and not options.gpu_type:
        raise UserError(
            "SkyPilot asks for the type of GPU", fix="add --gpu-type, such as L4; `sky show-gpus` lists them"
        )
    resources = f"  accelerators: {_quoted(f'{options.gpu_type}:{options.gpus}')}" if options.gpus else "  cpus: 4+"
    command = _torchrun(options, '"$SKYPILOT_NODE_RANK"', '"$MASTER"', "job.yaml")
    return f"""\
# sky launch this file, from a checkout of loraloom. Dataset and run folder must be on storage that all nodes mount.
name: {_name(settings)}
num_nodes: {options.nodes}
workdir: .
resources:
{resources}
setup: |
  pip install -e .
run: |
  set -euo pipefail
  cat > job.yaml <<'{MARK}'
{_indented(_settings(settings), 2)}
  {MARK}
  MASTER=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
  exec {command}
"""


def ray(settings: RunConfig, options: ExportOptions) -> str:
    """A script for `ray job submit`: one actor a process, spread over machines; a lost one ends the job, Ray repeats it."""
    resource = '{"num_gpus": 1}' if options.gpus else '{"num_cpus": 1}'
    bundle = f'{{"GPU": {options.gpus}, "CPU": 1}}' if options.gpus else '{"CPU": 1}'
    return f'''\
"""ray job submit --working-dir . -- python this_file.py; loraloom must be installed on the cluster's machines."""

import os
import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

NODES, PROCESSES, PORT = {options.nodes}, {options.processes}, {options.port}
SETTINGS = {_settings(settings)!r}


@ray.remote
def address():
    return ray.util.get_node_ip_address()


@ray.remote(max_retries=0)
def train(rank, local_rank, master):
    with open("job.yaml", "w", encoding="utf-8") as file:
        file.write(SETTINGS)
    variables = {{
        "RANK": rank,
        "LOCAL_RANK": 0 if {bool(options.gpus)} else local_rank,  # Ray shows a task its own GPU only
        "WORLD_SIZE": NODES * PROCESSES,
        "LOCAL_WORLD_SIZE": 1 if {bool(options.gpus)} else PROCESSES,
        "MASTER_ADDR": master,
        "MASTER_PORT": PORT,
    }}
    line = [sys.executable, "-m", *{shlex.split(_train(options, "job.yaml"))!r}]
    ran = subprocess.run(line, env={{**os.environ, **{{key: str(value) for key, value in variables.items()}}}})
    if ran.returncode:
        raise RuntimeError(f"rank {{rank}} ended with status {{ran.returncode}}")


def main():
    ray.init()
    group = placement_group([{bundle}] * NODES, strategy="STRICT_SPREAD")
    ray.get(group.ready())
    places = [
        PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=node)
        for node in range(NODES)
    ]
    master = ray.get(address.options(num_cpus=0, scheduling_strategy=places[0]).remote())
    waiting = [
        train.options(scheduling_strategy=places[node], **{resource if options.gpus else '{"num_cpus": 1 / PROCESSES}'}).remote(
            node * PROCESSES + local, local, master
        )
        for node in range(NODES)
        for local in range(PROCESSES)
    ]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)  # the first rank that fails ends the job: the others would wait for it
    finally:
        for task in waiting:
            ray.cancel(task, force=True)


main()
'''


def _indented(text: str, blanks: int) -> str:
    return "\n".join(" " * blanks + line if line else "" for line in text.rstrip("\n").split("\n"))


def _quoted(text: str) -> str:
    """A text as a YAML scalar."""
    return json.dumps(text, ensure_ascii=True)


WRITERS: dict[str, Callable[[RunConfig, ExportOptions], str]] = {
    "slurm": slurm,
    "kubernetes": kubernetes,
    "skypilot": skypilot,
    "ray": ray,
}
