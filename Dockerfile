# docker build -t voice-engine .
# docker build -t voice-engine:slim --build-arg SLIM=1 .        without the neural engines
# docker build -t voice-engine:full --build-arg MODELS="pocket sensevoice" .   with weights in it
# docker build -t voice-engine:cluster --build-arg CLUSTER=1 .  with Ray, for docs/cluster.md
# docker run -p 8000:8000 -v voice-engine:/data --stop-timeout 40 voice-engine
FROM python:3.11-slim

# tini reaps what is left behind and hands signals on; flite is the voice of slim images.
RUN apt-get update \
    && apt-get install -y --no-install-recommends flite tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 voice-engine \
    && install -d -o voice-engine -g voice-engine /data /data/cache /data/models /data/voices

WORKDIR /app
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1

# The packages change seldom, so their layer depends on these three files alone. Setup links the
# code in, which comes later; empty packages stand in for it.
ARG SLIM=
COPY pyproject.toml constraints.txt ./
COPY ops/setup.py ops/
RUN for name in ipc model_procs ops supervisor; do \
        mkdir -p "$name" && touch "$name/__init__.py" || exit 1; \
    done \
    && python ops/setup.py
ARG CLUSTER=
RUN if [ -n "$CLUSTER" ]; then \
        .venv/bin/python -m pip install --constraint constraints.txt --editable ".[cluster]"; \
    fi

COPY ipc ipc
COPY model_procs model_procs
COPY ops ops
COPY supervisor supervisor

# Weights in the image lie beside the code: a volume on /data would hide them there.
ARG MODELS=
RUN if [ -n "$MODELS" ]; then .venv/bin/voice-engine models pull $MODELS /app/models; fi
ARG BAKED=${MODELS:+/app/models}

ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PORT=8000 \
    VOICE_ENGINE_MODELS_DIR=${BAKED:-/data/models} \
    VOICE_ENGINE_CACHE_DIR=/data/cache \
    VOICES_DIR=/data/voices
USER 10001
EXPOSE 8000

# There is no VOLUME instruction, because Railway refuses it: mount a volume on /data yourself.
# Healthy is what can serve something; the output says more (docker inspect).
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s \
    CMD ["sh", "-c", "python -m ops.status --timeout 5 || [ $? -eq 1 ]"]

ENTRYPOINT ["tini", "--"]
CMD ["voice-engine", "serve"]
