# The image of Beam's workers: the SDK harness, TensorFlow, the job and its model. deploy/README.md tells how to use it.
#
#   docker build --target=worker -t IMAGE .                        with CUDA's libraries
#   docker build --target=worker -t IMAGE --build-arg DEVICE=cpu . without
#   docker build --target=launcher -t IMAGE --build-arg DEVICE=cpu .   of a flex template, which captions nothing

# Of the process that submits the job too: a harness of another version is refused.
ARG BEAM=2.77.0
ARG PYTHON=3.11
ARG DEVICE=gpu
ARG LAUNCHER=20230622_RC00

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
# Where the driver of the machine is mounted.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM ${DEVICE} AS worker
WORKDIR /opt/caption-images
COPY --from=harness /opt/apache/beam /opt/apache/beam
COPY setup.py pyproject.toml README.md LICENSE NOTICE ./
COPY beam_job beam_job
COPY model model
# Installed, the checkout has no use any more, and Python would find it before the package.
RUN pip install --no-cache-dir --no-deps . && pip check && rm -rf beam_job model build ./*.egg-info \
    && useradd --create-home --uid 1000 beam
# The harness would make an environment of its own below /opt to install staged packages into: nothing is staged.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 TF_CPP_MIN_LOG_LEVEL=3
# Dataflow mounts folders of root's that the harness writes to, so there it must be root. Elsewhere (Flink, Spark, a
# worker pool of one's own) build with --build-arg RUN_AS=beam.
ARG RUN_AS=root
USER ${RUN_AS}
ENTRYPOINT ["/opt/apache/beam/boot"]

# What starts a job from the template: the same environment, so that job and workers have one Beam.
FROM worker AS launcher
COPY --from=template-launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/
COPY deploy/launch.py /template/
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/launch.py
ENTRYPOINT ["/opt/google/dataflow/python_template_launcher"]
