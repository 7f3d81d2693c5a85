"""Record the figures of the style recipe with its preset `mini`: likeness of styles and blends, the prompt, the time.

In: a folder; what is done there is not done again. Out: `benchmarks/results/styles.json`, and the findings on stdout. Seconds
of a training are summed from its log lines, so an interruption does not count.

    python -m benchmarks.styles --out FOLDER
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.recording import machine, write_record
from loraloom.data.manifest import read_manifest
from loraloom.utils.progress import lines
from recipes.styles.recipe import run_recipe, summary
from recipes.styles.settings import read_styles

RESULTS = Path(__file__).parent / "results" / "styles.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the recipe")
    parser.add_argument("--record", type=Path, default=RESULTS, help="file to write")
    parser.add_argument("--no-scores", action="store_true", help="leave out `loraloom evaluate` of each style")
    args = parser.parse_args()
    config = read_styles(None, "mini", (), ("scored=false",) if args.no_scores else ())
    result = run_recipe(args.out, config, print, lines)
    if result.figures is None or result.failed:
        raise SystemExit(f"parts failed: {', '.join(result.failed)}")
    figures = result.figures
    styles = list(figures["styles"])
    record: dict[str, Any] = {
        "machine": machine(),
        "epochs": config.epochs,
        "batch_size": config.run.data.batch_size,
        "images": {name: len(read_manifest(args.out / "datasets" / name).split("train")) for name in styles},
        "training": {name: training(args.out / "runs" / name) for name in styles},
        "evaluation": {
            name: scores(args.out / "evaluation" / name / "scores.json") for name in styles if config.scored
        },
        **figures,
    }
    write_record(args.record, record)
    print(summary(result))
    print(args.record)


def training(run: Path) -> dict[str, float]:
    """Steps and seconds of a run."""
    steps, seconds = 0, 0.0
    for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] == "train":
            seconds += (row["step"] - steps) / row["steps_per_second"]
            steps = row["step"]
    return {"steps": steps, "seconds": round(seconds, 1)}


def scores(file: Path) -> dict[str, dict[str, Any]]:
    """Value, interval and the base's value of each figure of `loraloom evaluate`."""
    rows = json.loads(file.read_text(encoding="utf-8"))["scores"]
    return {
        row["name"]: {
            "value": row["value"],
            "interval_95": row["interval_95"],
            "adapter_off": (row["anchors"].get("base") or {}).get("value"),
            "says_nothing": row["says_nothing"],
        }
        for row in rows
    }


if __name__ == "__main__":
    main()
