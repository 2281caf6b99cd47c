# Two images: `docker build .` for machines without a GPU (target cpu), `docker build --target cuda .` for those with one.
FROM python:3.11-slim AS build
ENV PATH=/opt/mmrec/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/mmrec
COPY constraints.txt ./

FROM build AS build-cpu
# Its dependencies come from where all else comes from, pinned.
RUN pip install --no-deps --index-url https://download.pytorch.org/whl/cpu torch -c constraints.txt
COPY pyproject.toml README.md ./
COPY src src
RUN pip install '.[serve,postgres,offline,llm]' -c constraints.txt

FROM build AS build-cuda
RUN pip install torch -c constraints.txt
COPY pyproject.toml README.md ./
COPY src src
RUN pip install '.[serve,postgres,offline,llm]' -c constraints.txt

FROM python:3.11-slim AS run
RUN useradd --create-home --uid 10001 mmrec
ENV PATH=/opt/mmrec/bin:$PATH PYTHONUNBUFFERED=1
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
