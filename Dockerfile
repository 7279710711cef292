# syntax=docker/dockerfile:1
# One image for workers, router and discovery: SGLang's own image, and this package in it.
#     docker build -t registry.example.com/sun-sglang:1 .
# Workers without a GPU (emulated ones) and the router need no engine:
#     docker build --build-arg BASE=python:3.12-slim --build-arg NIXL= -t ...
# The SGLang of BASE must be a supported one (sun_sglang/sglang_versions.py); a worker of another version does not start.
ARG BASE=lmsysorg/sglang:v0.5.23

FROM python:3.12-slim AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE}
ARG NIXL="nixl==1.5.1"
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# the package's own dependencies, without an engine: that of BASE stays as it is
# The wheel is this package; the versions of what it requires are those of BASE where that has them
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    wheel=$(echo /wheels/sun_sglang-*.whl); \
    python3 -m pip install --no-cache-dir "${wheel}[kubernetes,otel]" ${NIXL:+"$NIXL"}; \
    command -v python >/dev/null || ln -s "$(command -v python3)" /usr/local/bin/python

# Pods run as this user and mount /tmp and the caches; torch looks its name up, and it has no entry in /etc/passwd
ENV USER=sun LOGNAME=sun HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT []
CMD ["sun", "--help"]
