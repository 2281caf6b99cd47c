# Two images: `docker build --build-arg TORCH_INDEX=URL .` for machines without a GPU, where the URL is that of PyTorch's
# index of CPU builds (pytorch.org names it); without it, torch brings the libraries of CUDA along.
# `docker build --target cuda .` is for machines with a GPU.
# For a build that can be repeated, pin the base: `docker buildx imagetools inspect python:3.11-slim` prints its digest for
# `--build-arg PYTHON_IMAGE=python:3.11-slim@sha256:...`.
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS build
ENV PATH=/opt/mmrec/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/mmrec
COPY constraints.txt deploy/requirements.lock ./
# All but torch by hash: what follows finds it here, and adds torch and the libraries of its build.
RUN pip install --require-hashes --no-deps -r requirements.lock

FROM build AS build-cpu
ARG TORCH_INDEX
# Its dependencies come from where all else comes from, pinned.
RUN pip install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch -c constraints.txt
COPY pyproject.toml README.md ./
COPY src src
RUN pip install '.[serve,postgres,offline,llm]' -c constraints.txt

FROM build AS build-cuda
RUN pip install torch -c constraints.txt
COPY pyproject.toml README.md ./
COPY src src
RUN pip install '.[serve,postgres,offline,llm]' -c constraints.txt

FROM ${PYTHON_IMAGE} AS run
RUN useradd --create-home --uid 10001 mmrec
# A folder that every user id may write to, also where the rest is read-only and /tmp a tmpfs.
ENV PATH=/opt/mmrec/bin:$PATH PYTHONUNBUFFERED=1 MMREC_CACHE=/tmp/mmrec
USER 10001
WORKDIR /home/mmrec
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["mmrec"]
CMD ["serve", "/model", "--host", "0.0.0.0"]

FROM run AS cuda
COPY --from=build-cuda /opt/mmrec /opt/mmrec

FROM run AS cpu
COPY --from=build-cpu /opt/mmrec /opt/mmrec
