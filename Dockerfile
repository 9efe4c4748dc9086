# The image of Beam workers: the SDK harness, TensorFlow, the job and its model. deploy/README.md shows how to use it.
#
#   docker build --target=worker -t IMAGE .                        with the CUDA libraries
#   docker build --target=worker -t IMAGE --build-arg DEVICE=cpu . without CUDA
#   docker build --target=launcher -t IMAGE --build-arg DEVICE=cpu .   the launcher of a flex template, which does not caption

# Must equal the version of the process that submits the job; Beam refuses a harness of another version.
ARG BEAM=2.77.0
ARG PYTHON=3.11
ARG DEVICE=gpu
ARG LAUNCHER=20251030-rc00

FROM apache/beam_python${PYTHON}_sdk:${BEAM} AS harness

FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:${LAUNCHER} AS template-launcher

FROM python:${PYTHON}.13-slim-bookworm AS cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/caption-images
COPY deploy/requirements.txt ./
RUN pip install --no-cache-dir --no-deps -r requirements.txt

FROM cpu AS gpu
COPY deploy/requirements-gpu.txt ./
RUN pip install --no-cache-dir --no-deps -r requirements-gpu.txt
# The path at which the host's driver is mounted.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM ${DEVICE} AS worker
WORKDIR /opt/caption-images
COPY --from=harness /opt/apache/beam /opt/apache/beam
COPY setup.py pyproject.toml README.md LICENSE NOTICE ./
COPY beam_job beam_job
COPY model model
# Python would import the copied sources before the installed package, so they are removed.
RUN pip install --no-cache-dir --no-deps . && pip check && rm -rf beam_job model build ./*.egg-info \
    && useradd --create-home --uid 1000 beam
# Otherwise the harness creates a virtual environment below /opt for staged packages; this image needs none.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 TF_CPP_MIN_LOG_LEVEL=3
# On Dataflow the harness must run as root, because it writes to mounted folders that root owns. For Flink, Spark or
# your own worker pool build with --build-arg RUN_AS=beam.
ARG RUN_AS=root
USER ${RUN_AS}
ENTRYPOINT ["/opt/apache/beam/boot"]

# The flex template's launcher: the same environment, so that launcher and workers have the same version of Beam.
FROM worker AS launcher
COPY --from=template-launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/
COPY deploy/launch.py /template/
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/launch.py
ENTRYPOINT ["/opt/google/dataflow/python_template_launcher"]
