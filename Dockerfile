# syntax=docker/dockerfile:1
# Looper on machines without a GPU. Dockerfile.cuda is for those with one.
#
#   docker build -t looper .
#   docker run --init --shm-size=2g -p 127.0.0.1:8000:8000 -v looper:/var/lib/looper --name looper looper
#   docker exec looper looper tenant create acme
#
# Ray keeps its objects in /dev/shm, hence --shm-size. State, and a looper.yaml if you want one, are in /var/lib/looper.

FROM python:3.11-slim-trixie AS build
# Debian keeps no older versions of a package, so a pinned one could not be installed for long.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/looper
COPY . .
ENV UV_LINK_MODE=copy
RUN --mount=type=cache,target=/var/cache/build XDG_CACHE_HOME=/var/cache/build make environment MACHINE=cpu

FROM python:3.11-slim-trixie
# vLLM's CPU kernels are linked with libnuma. KubeRay's readiness probe calls wget.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libnuma1 wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --home-dir /var/lib/looper --no-create-home looper \
 && install --directory --owner=looper --group=looper /var/lib/looper
COPY --from=build /opt/looper /opt/looper
# Everything that is written is below /var/lib/looper or /tmp, so that the rest of the image may be read-only.
ENV PATH=/opt/looper/.venv/bin:$PATH \
    HOME=/var/lib/looper \
    LOOPER_HOME=/var/lib/looper \
    LOOPER_SERVE__HOST=0.0.0.0 \
    XDG_CACHE_HOME=/var/lib/looper/cache
USER 10001
WORKDIR /var/lib/looper
VOLUME /var/lib/looper
EXPOSE 8000
# The first start makes the base model ready, which takes minutes.
HEALTHCHECK --start-period=15m --interval=15s --timeout=10s --retries=4 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('LOOPER_SERVE__PORT', '8000') + '/healthz', timeout=5)"]
# What `looper up` starts in the background, in the foreground. Settings come from looper.yaml and the environment.
CMD ["bash", "-c", "exec python -m looper.cluster.supervisor <<< '{}'"]
