"""Compare AP, speed and skipped steps of an experiment at each precision.

    make bench-half_precision        or        python bench/half_precision.py nuclei data.root=DIR train.max_steps=1500

Without arguments it trains the demo for 20 steps, which shows speed only. Precisions that the machine has no
instructions for are slow.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from results import Figure, write_results

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def main() -> None:
    experiment, *overrides = sys.argv[1:] or ["demo", "train.max_steps=20", "eval.limit=8", "log.every=5"]
    figures: list[Figure] = []
    print(f"{'precision':16} box AP  mask AP  images/s  skipped")
    with tempfile.TemporaryDirectory() as directory:
        for precision in PRECISIONS:
            run_dir = Path(directory) / precision
            command = [sys.executable, "-m", "mrcnn_train", f"+experiment={experiment}", *overrides]
            subprocess.run(
                [*command, f"precision={precision}", f"run.dir={run_dir}"], check=True, stdout=sys.stderr, cwd=directory
            )
            rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
            train = [row for row in rows if row["kind"] == "train"]
            last = [row for row in rows if row["kind"] == "evaluation"][-1]
            speed = statistics.median(row["images_per_second"] for row in train)
            skipped = train[-1].get("skipped_steps", 0)
            print(
                f"{precision:16} {last['box_AP']:6.3f} {last['mask_AP']:8.3f} {speed:9.2f} {skipped:8.0f}", flush=True
            )
            figures += [
                Figure(f"{precision}, box AP", last["box_AP"], "AP"),
                Figure(f"{precision}, mask AP", last["mask_AP"], "AP"),
                Figure(f"{precision}, speed", speed, "images/s"),
                Figure(f"{precision}, skipped steps", skipped, "steps"),
            ]
    write_results(f"half_precision_{experiment}", figures)


if __name__ == "__main__":
    main()
