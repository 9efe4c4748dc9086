"""What the job is compared with, each in a process of its own: `python -m tests.benchmarks.others NAME ...`.

    ceiling    C: decoding threads and the model in one bare process, no Beam
    notebook   N: one image at a time, Keras called step by step, as the course's notebook does
    beam       R: what a Beam user would write first, with the stock RunInference
    handler    H: the same pipeline with this job's decoding, and its handler in RunInference
    transform  T: CaptionImages
    machine    no captions; what TensorFlow runs on

N and R run the encoder as TensorFlow does; C, H and T, like the job, have the fastest engine. R decodes as Beam's own
example of image classification does (`pytorch_image_classification.py`): Pillow's `open`, `convert` and `resize`.
All take their images from `--input` (a folder, or `gs://bucket/photos/`) and write rows of `uri`, `caption` and
`captioned_at` as Parquet below `--output`.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beam_job.cli.quiet import quiet_stderr
from model import DEFAULT_BUNDLE, load_captioner, load_image, pad_batch

SCHEMA = pa.schema([("uri", pa.string()), ("caption", pa.string()), ("captioned_at", pa.timestamp("us", tz="UTC"))])
_FETCH_THREADS = 32
_AHEAD = 512  # images that are read and decoded before the model comes to them
_NOTEBOOK_IMAGES = 10

Row = dict[str, Any]
Pixels = npt.NDArray[np.uint8]


def main() -> int:
    """One of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.others", description=__doc__)
    parser.add_argument("name", choices=("ceiling", "notebook", "beam", "handler", "transform", "machine"))
    parser.add_argument("--input", default="")
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--model", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()
    with quiet_stderr():
        match args.name:
            case "ceiling":
                write(ceiling(args.input, args.model, args.batch_size), args.output)
            case "notebook":
                write(notebook(args.input, args.model), args.output)
            case "beam":
                beam_pipeline(args.input, args.output, args.model, args.batch_size)
            case "handler":
                handler_pipeline(args.input, args.output, args.model, args.batch_size)
            case "transform":
                transform_pipeline(args.input, args.output, args.model, args.batch_size)
            case _:
                print(json.dumps(machine()))
    return 0


def write(rows: Iterable[Row], output: Path) -> None:
    """The images as one file."""
    output.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), output / "captions.parquet")


def ceiling(source: str, bundle: Path, batch_size: int) -> Iterator[Row]:
    """Threads read and decode ahead while the main thread runs batches."""
    captioner = load_captioner(bundle, engine="auto", precision="auto")
    names, read = reader(source)
    with ThreadPoolExecutor(_FETCH_THREADS) as fetchers, ThreadPoolExecutor(os.cpu_count() or 1) as decoders:

        def decoded(data: Future[bytes]) -> Pixels:
            return load_image(data.result(), captioner.config.input_size).pixels

        ahead: list[Future[Pixels]] = []
        for start in range(0, len(names), batch_size):
            for name in names[start + len(ahead) : start + _AHEAD]:
                ahead.append(decoders.submit(decoded, fetchers.submit(read, name)))
            batch, ahead = ahead[:batch_size], ahead[batch_size:]
            captions = captioner.caption(pad_batch([image.result() for image in batch], batch_size))
            yield from _rows(names[start : start + len(batch)], [found[0].text for found in captions])


def reader(source: str) -> tuple[list[str], Callable[[str], bytes]]:
    """The images' names, and what reads one."""
    if not source.startswith("gs://"):
        return sorted(str(path) for path in Path(source).glob("*.jpg")), lambda name: Path(name).read_bytes()
    from google.cloud import storage as gcs

    bucket = gcs.Client().bucket(source.split("/")[2])
    return sorted(blob.name for blob in bucket.list_blobs()), lambda name: bucket.blob(name).download_as_bytes()


def notebook(source: str, bundle: Path) -> Iterator[Row]:
    """The first few images; greedy, each word with its own calls of the layers."""
    from model.vocabulary import END, START

    captioner = load_captioner(bundle)
    names, read = reader(source)
    for name in names[: _NOTEBOOK_IMAGES + 1]:  # the first is taken for the start
        pixels = load_image(read(name), captioner.config.input_size).pixels
        features = captioner.encoder(pixels[None])
        state = captioner.decoder.initial_state(features, 1)
        words = [START]
        while words[-1] != END and len(words) <= captioner.config.max_words:
            logits, state = captioner.decoder.step(np.asarray([[words[-1]]], np.int32), state, features)
            words.append(int(np.argmax(logits[0, 0])))
        yield from _rows([name], [captioner.vocabulary.decode(words[1:])])


def beam_pipeline(source: str, output: Path, bundle: Path, batch_size: int) -> None:
    """ReadMatches, decode, RunInference, WriteToParquet, in Beam's in-process runner."""
    import apache_beam as beam
    from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference

    class CaptionHandler(ModelHandler[Pixels, Row, Any]):
        """Batches of pixels to rows."""

        def load_model(self) -> Any:
            return load_captioner(bundle)

        def run_inference(
            self, batch: Sequence[Pixels], model: Any, inference_args: dict[str, Any] | None = None
        ) -> Iterable[Row]:
            return _rows([""] * len(batch), [found[0].text for found in model.caption(np.stack(batch))])

        def batch_elements_kwargs(self) -> dict[str, Any]:
            return {"max_batch_size": batch_size}

        def get_num_bytes(self, batch: Sequence[Pixels]) -> int:
            return sum(pixels.nbytes for pixels in batch)

    size = _input_size(bundle)

    def decoded(data: bytes) -> Pixels:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((size, size)))

    with _pipeline() as pipeline:
        (
            _files(pipeline, source)
            | "Decode" >> beam.Map(lambda file: (file.metadata.path, decoded(file.read())))
            | RunInference(KeyedModelHandler(CaptionHandler()))
            | "Row" >> beam.MapTuple(lambda uri, row: {**row, "uri": uri})
            | _sink(output)
        )


def handler_pipeline(source: str, output: Path, bundle: Path, batch_size: int) -> None:
    """ReadMatches, this job's decoding, RunInference with this job's handler, WriteToParquet."""
    import apache_beam as beam
    from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

    from beam_job import CaptionModelHandler

    size = _input_size(bundle)
    handler = CaptionModelHandler(model=str(bundle), batch_size=batch_size)
    with _pipeline() as pipeline:
        (
            _files(pipeline, source)
            | "Decode" >> beam.Map(lambda file: (file.metadata.path, load_image(file.read(), size).pixels))
            | RunInference(KeyedModelHandler(handler))
            | "Row" >> beam.MapTuple(lambda uri, found: _rows([uri], [found.captions[0].text])[0])
            | _sink(output)
        )


def transform_pipeline(source: str, output: Path, bundle: Path, batch_size: int) -> None:
    """URIs, CaptionImages, WriteToParquet."""
    import apache_beam as beam

    from beam_job import CaptionImages
    from beam_job.inputs.listing import list_images

    uris = [uri for batch in list_images([source]) for uri in batch.column("uri").to_pylist()]
    place = {"allow_buckets": ["gs://bucket"]} if source.startswith("gs://") else {"allow_root": [source]}
    with _pipeline() as pipeline:
        results = pipeline | beam.Create(uris) | CaptionImages(model=str(bundle), batch_size=batch_size, **place)
        columns = SCHEMA.names
        _ = results.captions | "Row" >> beam.Map(lambda row: {name: row[name] for name in columns}) | _sink(output)


def _input_size(bundle: Path) -> int:
    return int(json.loads((bundle / "config.json").read_text())["input_size"])


def _pipeline() -> Any:
    """In Beam's in-process runner."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    # Without `no_auth`, Beam looks for credentials that an emulator does not ask for, 20 s and more.
    return beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", "--no_auth"]))


def _files(pipeline: Any, source: str) -> Any:
    import apache_beam as beam
    from apache_beam.io import fileio

    pattern = f"{source}**.jpg" if source.startswith("gs://") else f"{source}/*.jpg"
    return pipeline | beam.Create([pattern]) | fileio.MatchAll() | fileio.ReadMatches()


def _sink(output: Path) -> Any:
    import apache_beam as beam

    return beam.io.WriteToParquet(str(output / "captions"), SCHEMA, file_name_suffix=".parquet")


def _rows(uris: Sequence[str], captions: Iterable[str]) -> list[Row]:
    """A batch's rows; there are more captions than images where it was padded."""
    now = datetime.datetime.now(datetime.timezone.utc)
    pairs = zip(uris, captions, strict=False)
    return [{"uri": uri, "caption": caption, "captioned_at": now} for uri, caption in pairs]


def machine() -> dict[str, Any]:
    """What TensorFlow runs on, versions, and what importing them takes."""
    started = time.monotonic()
    import apache_beam
    import keras
    import tensorflow as tf

    seconds = time.monotonic() - started
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    versions = {"TensorFlow": tf.__version__, "Keras": keras.__version__, "Beam": apache_beam.__version__}
    return {"devices": ["CPU", *gpus], "versions": {"Python": sys.version.split()[0], **versions}, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main())
