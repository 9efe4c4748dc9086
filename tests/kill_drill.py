"""The kill drill: a run is killed at a random moment, ten times over, then left to end.

    python -m tests.kill_drill [--images=1500] [--kills=10] [--workers=1] [--seed=0] [--most=6]

Photographs are copied until there are enough, the job is started on them again and again with the same command, and
each time it is killed with SIGKILL, its workers too, some moments after it has written 1 to `most` new files of
captions. In the end every URI must have one row, under one run, and no file that was seen after a kill may have
changed. Prints what it saw; exits with 1 if it saw otherwise, or if too few kills fell between the first and the last
shard to prove anything.
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

_SHARD_SIZE = 25
_POLL_SECONDS = 0.02


def main() -> int:
    """The drill; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill_drill", description=__doc__)
    for name, default in {"images": 1500, "kills": 10, "workers": 1, "seed": 0, "most": 6}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-drill-") as folder:
        return drill(Path(folder), args)


def drill(root: Path, args: argparse.Namespace) -> int:
    """Kills, restarts, and checks the output at the end."""
    photos, output = root / "photos", root / "out"
    photos.mkdir()
    samples = [path.read_bytes() for path in sample_photographs() if path.suffix == ".jpg"]
    for number in range(args.images):
        (photos / f"{number:05d}.jpg").write_bytes(samples[number % len(samples)])
    command = [sys.executable, "-m", "beam_job", f"--input={photos}", f"--output={output}"]
    command += [f"--shard_size={_SHARD_SIZE}", f"--workers={args.workers}"]
    seen: dict[Path, int] = {}
    halfway = 0
    moments = random.Random(args.seed)
    for kill in range(args.kills):
        new_parts, later = moments.randint(1, args.most), moments.uniform(0, 0.5)
        was_running = kill_after(new_parts, later, command, output)
        parts = {path: path.stat().st_mtime_ns for path in parts_of(output)}
        halfway += was_running and 0 < len(parts) < args.images // _SHARD_SIZE
        state = "killed" if was_running else "had ended"
        print(f"kill {kill + 1}: {state}, {len(parts)} shards, {len(parts) - len(seen)} of them new", flush=True)
        if changed := [path for path, written in seen.items() if parts.get(path) != written]:
            print(f"changed after it was seen: {changed[0]}")
            return 1
        seen = parts
    if halfway < (args.kills + 1) // 2:
        print(f"only {halfway} of {args.kills} kills fell between the first and the last shard; give more --images")
        return 1
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    print(last.stderr.splitlines()[0])
    return verdict(output, args.images)


def parts_of(output: Path) -> list[Path]:
    """The files of captions, one for each shard that is done."""
    return sorted((output / "captions").rglob("part-*.parquet"))


def kill_after(new_parts: int, seconds: float, command: list[str], output: Path) -> bool:
    """Starts the job, and kills all its processes some seconds after it has written new files of captions.

    Returns:
      False if it had ended before.
    """
    before = len(parts_of(output))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None and len(parts_of(output)) < before + new_parts:
            time.sleep(_POLL_SECONDS)
        time.sleep(seconds)  # the moment of the kill is what the drill is about
        was_running = process.poll() is None
        if was_running:
            os.killpg(process.pid, signal.SIGKILL)
    return was_running


def verdict(output: Path, images: int) -> int:
    """Every URI once, under one run."""
    rows = ds.dataset(output / "captions", partitioning="hive").to_table(["uri", "run"])
    uris, runs = rows["uri"].to_pylist(), set(rows["run"].to_pylist())
    print(f"{len(uris)} rows, {len(set(uris))} distinct URIs, {len(runs)} run")
    return 0 if len(uris) == len(set(uris)) == images and len(runs) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
