# docker build -t denovox .                                       CPU
# docker build -t denovox:cuda --build-arg TORCH=https://download.pytorch.org/whl/cu130 .
# docker run --rm --read-only --tmpfs /tmp -v "$PWD/in:/in:ro" -v "$PWD/out:/out" \
#     --user "$(id -u):$(id -g)" denovox denoise /in/ct.nii.gz /out/clean.nii.gz
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY docker/install docker/install
COPY src src
RUN docker/install /opt/denovox "$TORCH"

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/denovox /opt/denovox
# No home directory is needed: what libraries cache goes to /tmp.
ENV PATH=/opt/denovox/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /out
ENTRYPOINT ["denovox"]
CMD ["--help"]
