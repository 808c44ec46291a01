# One image for all four processes; the command says which: api, relay, rooms, results.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
RUN pip install --no-cache-dir uv==${UV_VERSION}
WORKDIR /innbox
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY api api
COPY consumers consumers
COPY distributions distributions
COPY domain domain
COPY innbox innbox
COPY innbox_client innbox_client
COPY innbox_process innbox_process
COPY migrations migrations
COPY ops ops
COPY outbox outbox
COPY relay relay
COPY runtime runtime
# Without the embedded servers: the image brings processes, not databases.
RUN uv sync --frozen --no-dev --no-editable --python-preference only-system

FROM ${PYTHON_IMAGE}
RUN useradd --system --home-dir /innbox innbox
COPY --from=build /innbox/.venv /innbox/.venv
ENV PATH=/innbox/.venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /innbox
USER innbox
STOPSIGNAL SIGTERM
ENTRYPOINT ["innbox"]
CMD ["--help"]
