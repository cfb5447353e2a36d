# syntax=docker/dockerfile:1
# An image for `launch=k8s_job` and `launch=kuberay`, or for any machine with containers:
#
#   docker build -t sam-engine:cpu .
#   docker build -t sam-engine:cuda --build-arg TORCH=cu128 --build-arg MODELS="vit_b vit_h" .
#
# TORCH is the variant of torch: cpu, or a CUDA that the driver of the machines knows (the wheels bring their
# own libraries). MODELS are weights that are put in, as pods may not reach the internet; tiny is always there.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/engine
ENV PATH=/opt/engine/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# torch first, alone: it is most of the image, and changes least.
RUN pip install --constraint constraints.txt --index-url "https://download.pytorch.org/whl/${TORCH}" \
        --extra-index-url https://pypi.org/simple torch
COPY . .
RUN pip install --constraint constraints.txt ".[cluster,cloud]"

FROM python:${PYTHON}-slim
ARG MODELS=""
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin engine
COPY --from=build /opt/engine /opt/engine
# Weights are kept here, not in a home that a cluster may replace.
ENV PATH=/opt/engine/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    TORCH_HOME=/opt/weights
# KubeRay may start Ray from a login shell, which begins with a PATH of its own.
RUN echo "PATH=/opt/engine/bin:\$PATH" > /etc/profile.d/engine.sh \
    && mkdir -p /opt/weights /work && chown engine:engine /opt/weights /work
USER 10001
WORKDIR /work
RUN for model in $MODELS; do \
        python -c "import sys; from sam_engine.config import ModelConfig; \
from sam_engine.checkpoints.resolve import resolve_checkpoint; \
print(resolve_checkpoint(ModelConfig(name=sys.argv[1])))" "$model" || exit 1; \
    done
ENTRYPOINT ["sam-engine"]
CMD ["--help"]
