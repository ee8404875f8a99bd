# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build -t you/voxtral-worker:cuda .
#   docker build -t you/voxtral-worker:cpu --build-arg KIND=cpu --build-arg TORCH_INDEX=https://... .
# TORCH_INDEX is the address of PyTorch's index of CPU builds, which PyTorch's installation page names.
#
# A tag can be moved: pin a base image with --build-arg BASE_IMAGE=nvidia/cuda@sha256:... or
# CPU_BASE_IMAGE=python@sha256:..., where the digest is what `docker buildx imagetools inspect` says of the tag.
ARG KIND=cuda
# "base" holds the CUDA runtime and the driver's settings; all other libraries come with torch.
# Its version is that of the torch wheel in builder/requirements.txt.
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04
ARG CPU_BASE_IMAGE=python:3.12-slim-trixie

FROM ${BASE_IMAGE} AS base-cuda

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv

# Prompts differ in size at every step, so the allocator must be able to grow its segments.
# Compiled kernels have a fixed folder in the image, as a container keeps no home folder.
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTORCH_ALLOC_CONF=expandable_segments:True \
    TRITON_CACHE_DIR=/opt/kernels/triton \
    TORCHINDUCTOR_CACHE_DIR=/opt/kernels/inductor

# Triton compiles C at the first launch of a kernel: without a compiler and Python's headers
# the worker would start on no GPU at all, and no build without a GPU would notice.
RUN python -c "import shutil, sysconfig, pathlib; assert shutil.which('gcc'); assert pathlib.Path(sysconfig.get_paths(scheme='posix_prefix')['include'], 'Python.h').is_file()" \
    && gcc -include stdio.h -x c -fsyntax-only /dev/null

WORKDIR /app

# Dependencies change seldom and take long: they are a layer of their own, before the code.
# The lock names every package with the hash of its file: what is not that very file is refused.
COPY builder/requirements.lock builder/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --no-deps -r builder/requirements.lock

FROM ${CPU_BASE_IMAGE} AS base-cpu

RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app

# The same packages without CUDA's, and PyTorch's build for CPUs, which the package registry does not have.
COPY builder/requirements-cpu.lock builder/requirements-cpu-torch.txt builder/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --no-deps -r builder/requirements-cpu.lock
ARG TORCH_INDEX=""
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -z "$TORCH_INDEX" ]; then echo "KIND=cpu needs --build-arg TORCH_INDEX=https://..." >&2; exit 1; fi; \
    pip install --no-deps --index-url "$TORCH_INDEX" -r builder/requirements-cpu-torch.txt
RUN python -c "import torch; assert torch.version.cuda is None, 'TORCH_INDEX has builds with CUDA'"

# hadolint ignore=DL3006
FROM base-${KIND}

WORKDIR /app
ENV PYTHONPATH=/app/src \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/runpod-volume/huggingface-cache \
    HF_XET_HIGH_PERFORMANCE=1

# Weights in the image, if asked for:
#   docker build --build-arg MODEL_ID=mistralai/Voxtral-Mini-3B-2507 --secret id=HF_TOKEN .
# They lie outside HF_HOME, which a volume hides. An empty MODEL_ID counts as unset.
ARG MODEL_ID=""
ARG MODEL_REVISION=main
COPY builder/fetch_weights.py builder/
COPY src/voxtral_worker/__init__.py src/voxtral_worker/checkpoint.py src/voxtral_worker/
RUN --mount=type=secret,id=HF_TOKEN \
    if [ -n "$MODEL_ID" ]; then \
        HF_HOME=/tmp/hf HF_TOKEN="$(cat /run/secrets/HF_TOKEN 2>/dev/null || true)" \
        python builder/fetch_weights.py "$MODEL_ID" "/models/$MODEL_ID" --revision "$MODEL_REVISION" \
        && rm -rf /tmp/hf; \
    fi
ENV MODEL_ID=${MODEL_ID:+/models/$MODEL_ID}

COPY handler.py test_input.json ./
COPY models models
COPY src src
COPY builder/compile_kernels.py builder/
RUN python -m compileall -q src \
    && if [ -n "${TRITON_CACHE_DIR:-}" ]; then python -m builder.compile_kernels; fi

# For everybody who is not RunPod (`--user worker`): a user that can write to the two volumes and
# to /tmp alone. RunPod mounts its volume for root, so there, and by default, root runs the worker.
RUN useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin worker \
    && mkdir -p /runpod-volume /opt/kernels \
    && chown -R worker:worker /runpod-volume /opt/kernels
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as r; s = 's' if os.environ.get('TLS_CERT_FILE') else ''; r.urlopen('http%s://127.0.0.1:%s/ping' % (s, os.environ.get('PORT') or 8000), timeout=4, context=ssl._create_unverified_context() if s else None)"]
CMD ["python", "-u", "handler.py"]
