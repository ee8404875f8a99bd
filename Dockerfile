# syntax=docker/dockerfile:1
# "base" holds the CUDA runtime and the driver's settings; all other libraries come with torch.
# Its version is that of the torch wheel in builder/requirements.txt.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv

ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONPATH=/app/src \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/runpod-volume/huggingface-cache

WORKDIR /app

# Dependencies change seldom and take long: they are a layer of their own, before the code.
COPY builder/requirements.txt builder/
RUN --mount=type=cache,target=/root/.cache/pip pip install -r builder/requirements.txt

# Weights in the image, if asked for:
#   docker build --build-arg MODEL_ID=mistralai/Voxtral-Mini-3B-2507 --secret id=HF_TOKEN .
# They lie outside HF_HOME, which a volume hides. An empty MODEL_ID counts as unset.
ARG MODEL_ID=""
ARG MODEL_REVISION=main
COPY builder/fetch_weights.py builder/
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
RUN python -m compileall -q src

# Runs as root: RunPod mounts its volume for root, and the model cache on it is written to.
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as r; s = 's' if os.environ.get('TLS_CERT_FILE') else ''; r.urlopen('http%s://127.0.0.1:%s/ping' % (s, os.environ.get('PORT') or 8000), timeout=4, context=ssl._create_unverified_context() if s else None)"]
CMD ["python", "-u", "handler.py"]
