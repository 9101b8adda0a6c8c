# The command line in a container, for the files of a folder:
#
#     docker build -t spectro-render .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" spectro-render song.mid
#
# TORCH_INDEX is the address of PyTorch's own wheels, less the last part; DEVICE is that part: `cpu`,
# or `cu126` and its like for an image that computes on NVIDIA's GPUs (docker run --gpus all ...).
# Without an address torch comes from where pip looks by itself, whatever DEVICE says: where that is
# a build with CUDA, the image works on CPUs too, but is gigabytes larger.

ARG PYTHON=3.11

FROM python:${PYTHON}-bookworm AS build
ARG DEVICE=cpu
ARG TORCH_INDEX=
WORKDIR /src
RUN python -m venv /opt/venv
COPY constraints.txt ./
RUN /opt/venv/bin/pip install --no-cache-dir -c constraints.txt \
        ${TORCH_INDEX:+--index-url "${TORCH_INDEX}/${DEVICE}"} torch
COPY LICENSE README.md pyproject.toml ./
COPY weights/default weights/default
COPY spectro_render spectro_render
RUN /opt/venv/bin/pip install --no-cache-dir -c constraints.txt '.[hub]'

FROM python:${PYTHON}-slim-bookworm
# Whoever runs it may have no home: what is fetched and compiled goes where all may write.
ENV PATH=/opt/venv/bin:$PATH \
    HF_HOME=/tmp/huggingface \
    NUMBA_CACHE_DIR=/tmp/numba
COPY --from=build /opt/venv /opt/venv
RUN spectro-render --version
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["spectro-render"]
CMD ["--help"]
