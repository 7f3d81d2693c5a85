"""Measure the start of the command line against that of an empty Python program.

In: the number of rounds. Out: for each command the median wall time in seconds, the part of it beyond Python's own start,
and whether torch was imported. Commands and the empty program alternate, so that a busy machine slows both equally.
Bytecode is cached in a temporary folder by one unmeasured round, as in an installed package, also where the environment
forbids writing it.

    python -m benchmarks.startup --rounds 9
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

LIMIT_S = 0.3
COMMANDS = [["--help"], ["--version"], ["config", "--help"], ["diff", "--help"], ["doctor", "--help"]]
LATER = ["prepare", "train", "generate", "tokens"]
"""Commands with flags from settings, measured if they exist."""

PROGRAM = "from loraloom.cli.app import main; main()"
WATCH = (
    "import sys\nfrom loraloom.cli.app import main\ntry: main()\nexcept SystemExit: pass\n"
    "sys.stderr.write('torch' if 'torch' in sys.modules else '')"
)


def wall_s(program: str, arguments: list[str], environment: dict[str, str]) -> float:
    """Seconds of one process from start to end."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return time.perf_counter() - start


def imports_torch(arguments: list[str], environment: dict[str, str]) -> bool:
    """Whether the command has torch in memory at its end."""
    watched = subprocess.run(
        [sys.executable, "-c", WATCH, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return watched.stderr.endswith("torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as cache:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        top = subprocess.run([sys.executable, "-c", PROGRAM, "--help"], env=environment, capture_output=True, text=True)
        commands = COMMANDS + [[verb, "--help"] for verb in LATER if f"\n  {verb} " in top.stdout]
        print(f"{'command':26} {'median s':>9} {'over python':>12}  torch")
        for arguments in commands:
            wall_s(PROGRAM, arguments, environment)
            ours, empty = [], []
            for _ in range(rounds):
                empty.append(wall_s("pass", [], environment))
                ours.append(wall_s(PROGRAM, arguments, environment))
            torch = "imported" if imports_torch(arguments, environment) else "no"
            late = "" if median(ours) <= LIMIT_S else f"  over {LIMIT_S} s"
            name = "loraloom " + " ".join(arguments)
            print(f"{name:26} {median(ours):>9.3f} {median(ours) - median(empty):>12.3f}  {torch}{late}")


if __name__ == "__main__":
    main()
