"""An offline batch captioning job: images of a folder or bucket in, captions in Parquet out, on Apache Beam."""

__version__ = "0.1.0"
