# The service: docker run -p 8000:8000 -v ./data:/data gengeo serve --index /data/city.gengeo --model /data/model \
#                --host 0.0.0.0
# For a GPU: docker build --build-arg DEVICE=gpu --tag gengeo:gpu . && docker run --gpus all ... gengeo:gpu serve ...
FROM python:3.13-slim AS build
ARG DEVICE=cpu
WORKDIR /source
COPY . .
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# PyPI's torch for Linux brings CUDA; the other index has it for CPUs only, a tenth of the size.
# hadolint ignore=DL3013
RUN python -m venv /opt/gengeo && \
    if [ "$DEVICE" = gpu ]; then \
        /opt/gengeo/bin/pip install --no-cache-dir torch; \
    else \
        /opt/gengeo/bin/pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu; \
    fi && \
    /opt/gengeo/bin/pip install --no-cache-dir '.[serve,heic]'

FROM python:3.13-slim
COPY --from=build /opt/gengeo /opt/gengeo
RUN useradd --create-home --uid 1000 gengeo
USER 1000
ENV PATH=/opt/gengeo/bin:$PATH HF_HOME=/home/gengeo/.cache/huggingface
EXPOSE 8000
ENTRYPOINT ["gengeo"]
CMD ["--help"]
