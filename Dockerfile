# One image for `serve` and `work`. CI has no container engine: .ci/dockerfile.py runs these
# steps on its machine, command by command (see there for what that leaves out).
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/build && python -m venv /opt/tusd-py
WORKDIR /src
COPY requirements/build.txt requirements/run.txt requirements/
RUN /opt/build/bin/pip install --require-hashes -r requirements/build.txt \
    && /opt/tusd-py/bin/pip install --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE settings.py worker.py ./
COPY tusd_py/ tusd_py/
COPY processing/ processing/
COPY storage/ storage/
RUN /opt/build/bin/python -m build --wheel --no-isolation --outdir dist \
    && /opt/tusd-py/bin/pip install --no-deps dist/*.whl

FROM python:3.11-slim-bookworm
RUN useradd --system --user-group --uid 10001 --home-dir /data tusd \
    && install --directory --owner tusd --group tusd --mode 0750 /data
COPY --from=build /opt/tusd-py /opt/tusd-py
ENV PATH=/opt/tusd-py/bin:$PATH PYTHONUNBUFFERED=1 HOST=0.0.0.0 PORT=8000 UPLOAD_DIR=/data
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["tusd-py"]
CMD ["serve"]
