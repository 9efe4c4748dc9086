"""The kill drill: a run is killed at a random moment, ten times over, then left to end.

    python -m tests.kill_drill [--images=1500] [--kills=10] [--workers=1] [--seed=0] [--earliest=5] [--latest=14]

Photographs are copied until there are enough, the job is started on them again and again with the same command, and
each time it is killed with SIGKILL, its workers too, between `earliest` and `latest` seconds after its start. In the
end every URI must stand once, under one run, and no part that was seen after a kill may have changed. Prints what it
saw; exits with 1 where it saw otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.dataset as ds

from beam_job.cli.demo import sample_photographs


def main() -> int:
    """The drill; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill_drill", description=__doc__)
    defaults = {"images": 1500, "kills": 10, "workers": 1, "seed": 0, "earliest": 5, "latest": 14}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-drill-") as folder:
        return drill(Path(folder), args)


def drill(root: Path, args: argparse.Namespace) -> int:
    """Kills, restarts, and counts what stands at the end."""
    photos, output = root / "photos", root / "out"
    photos.mkdir()
    samples = [path.read_bytes() for path in sample_photographs() if path.suffix == ".jpg"]
    for number in range(args.images):
        (photos / f"{number:05d}.jpg").write_bytes(samples[number % len(samples)])
    command = [sys.executable, "-m", "beam_job", f"--input={photos}", f"--output={output}", "--shard_size=50"]
    command.append(f"--workers={args.workers}")
    seen: dict[Path, int] = {}
    moments = random.Random(args.seed)
    for kill in range(args.kills):
        after = moments.uniform(args.earliest, args.latest)
        ended = run_for(after, command)
        parts = {path: path.stat().st_mtime_ns for path in output.rglob("part-*.parquet")}
        changed = [path for path, written in seen.items() if parts.get(path) != written]
        print(f"kill {kill + 1} after {after:.1f} s{' (had ended)' if ended else ''}: {len(parts)} parts", flush=True)
        if changed:
            print(f"changed after it was seen: {changed[0]}")
            return 1
        seen = parts
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    print(last.stderr.splitlines()[0])
    return verdict(output, args.images)


def run_for(seconds: float, command: list[str]) -> bool:
    """Starts the job and kills all its processes; True where it had ended before."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        time.sleep(seconds)  # the moment of the kill is what the drill is about
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
    return ended


def verdict(output: Path, images: int) -> int:
    """Every URI once, under one run."""
    rows = ds.dataset(output / "captions", partitioning="hive").to_table(["uri", "run"])
    uris, runs = rows["uri"].to_pylist(), set(rows["run"].to_pylist())
    print(f"{len(uris)} rows, {len(set(uris))} distinct URIs, {len(runs)} run")
    return 0 if len(uris) == len(set(uris)) == images and len(runs) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
