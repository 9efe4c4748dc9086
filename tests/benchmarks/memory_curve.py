"""Whether memory grows with the number of images: a long run over a folder of which a tenth is damaged.

    python -m tests.benchmarks.memory_curve [--images=100000] [--every=10000] [--workers=1]

Makes a folder of hard links to some hundred small JPEGs, every tenth to a damaged one, and runs the whole job on it
with a fake captioner, so that what grows is the job's own. Prints the resident memory of all its processes each time
that so many images are written, and whether every image stands once at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from tests.fakes import with_fake_model

SHARD = 500


def main() -> int:
    """The benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory_curve", description=__doc__)
    for name, default in (("images", 100_000), ("every", 10_000), ("workers", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    print(f"{args.images:,} images, {args.workers} workers, {os.cpu_count()} cores, {platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="memory-curve-") as folder:
        photos, output = Path(folder, "photos"), Path(folder, "out")
        make_images(Path(folder, "originals"), photos, args.images)
        command = [sys.executable, "-m", "beam_job", f"--input={photos}", f"--output={output}"]
        command += [f"--shard_size={SHARD}", f"--workers={args.workers}"]
        with subprocess.Popen(command, env=with_fake_model(), stderr=subprocess.PIPE, text=True) as job:
            watch(job, output, args.every)
            printed = job.stderr.read() if job.stderr else ""
        if job.returncode:
            print(printed)
            return 1
        return verdict(output, args.images)


def make_images(originals: Path, photos: Path, count: int) -> None:
    """`count` names for 200 JPEGs and 20 damaged ones, a thousand in each folder."""
    originals.mkdir()
    for number in range(220):
        path = originals / f"{number}.jpg"
        Image.effect_noise((160, 120), 40).convert("RGB").save(path, quality=80)
        if number >= 200:
            path.write_bytes(path.read_bytes()[:500])
    for number in range(count):
        original = 200 + number % 20 if number % 10 == 0 else number % 200
        name = photos / f"{number // 1000:04d}" / f"{number:07d}.jpg"
        if number % 1000 == 0:
            name.parent.mkdir(parents=True)
        os.link(originals / f"{original}.jpg", name)


def watch(job: subprocess.Popen[str], output: Path, every: int) -> None:
    """Prints the curve until the job ends."""
    print(f"{'written':>10} {'seconds':>8} {'resident MB':>12}", flush=True)
    started, next_at = time.monotonic(), every
    while job.poll() is None:
        written = SHARD * sum(1 for _ in output.glob("captions/*/part-*.parquet"))
        if written >= next_at:
            print(f"{written:>10,} {time.monotonic() - started:>8.0f} {resident_mb(job.pid):>12.0f}", flush=True)
            next_at = (written // every + 1) * every
        time.sleep(0.2)


def resident_mb(pid: int) -> float:
    """Memory of a process and its children, as the kernel counts it."""
    total = 0.0
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(status.partition("VmRSS:")[2].split()[0]) / 1024 if "VmRSS:" in status else 0.0
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            total += sum(resident_mb(int(child)) for child in children.read_text().split())
    return total


def verdict(output: Path, images: int) -> int:
    """Captions and failures are the images."""
    [summary] = output.glob("runs/*/summary.json")
    counts = json.loads(summary.read_text())
    print(f"{counts['captions']:,} captions, {counts['failures']:,} failures, {counts['images_per_second']} images/s")
    return 0 if counts["captions"] + counts["failures"] == images else 1


if __name__ == "__main__":
    sys.exit(main())
