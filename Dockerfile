# The image of Accession: `docker build -t accession .`, or `docker compose build`.
# docs/deployment.md tells how to run it. Any base with Python and its module venv will do.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
WORKDIR /source
COPY requirements/uv.txt requirements/run.txt requirements/dev.txt requirements/
# All packages are checked against the hashes in the requirement files; they include those that build the wheel.
RUN python3 -m venv /uv && /uv/bin/pip install --no-cache-dir --require-hashes -r requirements/uv.txt
RUN python3 -m venv --without-pip /opt/accession \
    && /uv/bin/uv pip sync --no-cache --compile-bytecode --python /opt/accession --require-hashes requirements/run.txt
COPY LICENSE README.md pyproject.toml ./
COPY src src
RUN /uv/bin/uv build --no-cache --wheel --require-hashes --build-constraints requirements/dev.txt \
    && /uv/bin/uv pip install --no-cache --compile-bytecode --python /opt/accession --no-deps dist/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="Accession" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/accession /opt/accession
# PostgreSQL's initdb, which the demo needs, looks up the name of the user.
RUN echo "accession:x:10001:10001::/data:/usr/sbin/nologin" >> /etc/passwd \
    && echo "accession:x:10001:" >> /etc/group \
    && install -d -m 700 -o 10001 -g 10001 /data
ENV PATH=/opt/accession/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ACCESSION_HOME=/data \
    ACCESSION_LOG_FORMAT=json
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8642
# For `web` and `up` at their usual port. Other processes need another check, or none: see compose.yaml.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD ["python3", "-c", "\
from http.client import HTTPConnection as C; \
c = C('127.0.0.1', 8642, timeout=4); c.request('GET', '/healthz'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["accession"]
