"""What the distance to the bucket costs: the whole job with 0 and 40 ms added to each image's GET.

    python -m tests.benchmarks.fetch_latency [--images=1000] [--rounds=2]

Starts a storage emulator and a proxy before it that holds back media downloads, uploads copies of the sample
photographs, and runs the job with each delay in turn. Prints images a second of the whole job, start-up included, and
the ratio within each round.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from beam_job.demo import sample_photographs
from tests.conftest import emulator

DELAY_S = 0.04


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to `target`; a media download after `delay` seconds."""

    protocol_version = "HTTP/1.1"
    target = ""
    delay = 0.0

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _pass_on(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else None
        if self.command == "GET" and "alt=media" in self.path:
            time.sleep(self.delay)  # the latency that is measured
        kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        connection = http.client.HTTPConnection(self.target)
        connection.request(self.command, self.path, body, kept)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _pass_on


def main() -> int:
    """The benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fetch_latency", description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    print(f"{args.images} images, {os.cpu_count()} cores, {platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="fetch-latency-") as folder, emulator(Path(folder) / "log") as address:
        Proxy.target = address.removeprefix("http://")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        upload(address, args.images)
        through = f"http://127.0.0.1:{server.server_port}"
        for number in range(args.rounds):
            near = images_per_second(through, 0.0, Path(folder) / f"near{number}")
            far = images_per_second(through, DELAY_S, Path(folder) / f"far{number}")
            print(f"0 ms {near:6.1f} images/s   40 ms {far:6.1f} images/s   ratio {far / near:.2f}", flush=True)
        server.shutdown()
        server.server_close()
    return 0


def upload(address: str, images: int) -> None:
    """Puts `images` photographs into the bucket."""
    from google.cloud import storage as gcs

    os.environ["STORAGE_EMULATOR_HOST"] = address
    samples = [path.read_bytes() for path in sample_photographs() if path.suffix == ".jpg"]
    bucket = gcs.Client().create_bucket("bucket")
    for number in range(images):
        bucket.blob(f"photos/{number:05d}.jpg").upload_from_string(samples[number % len(samples)])


def images_per_second(address: str, delay: float, output: Path) -> float:
    """Runs the job through the proxy; its summary's figure."""
    Proxy.delay = delay
    command = [sys.executable, "-m", "beam_job", "--input=gs://bucket/photos/", f"--output={output}"]
    environment = os.environ | {"STORAGE_EMULATOR_HOST": address}
    subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=True)
    [summary] = output.glob("runs/*/summary.json")
    return float(json.loads(summary.read_text())["images_per_second"])


if __name__ == "__main__":
    sys.exit(main())
