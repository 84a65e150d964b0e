# A folder of DICOM series in, segmentations and reports out; the weights are inside, and no network is used at run time.
#
#   docker build --build-arg DEVICE=cuda --tag sesegment .
#   docker run --network none --gpus all -v /series:/app/data/input_data:ro -v /results:/app/data/output_data sesegment
#
# Any user may run it. What is given after the image's name is a command of sesegment in place of "dicom".
FROM python:3.11-slim-bookworm

# cpu, or cuda for NVIDIA's GPUs
ARG DEVICE=cpu
# where PyTorch comes from: with DEVICE=cpu PyTorch's own index by default
ARG TORCH_INDEX

LABEL org.opencontainers.image.title="SESegmentation" \
      org.opencontainers.image.description="Segments DICOM series of CT and MR: DICOM SEG and SR. For research only." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.source="https://github.com/SESegmentation/SlicerSESegmentation" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-4.0 AND CC-BY-NC-SA-4.0" \
      sesegmentation.models="abdomen-mr brain-mr hippocampus-t1" \
      sesegmentation.input="/app/data/input_data" \
      sesegmentation.output="/app/data/output_data"

WORKDIR /opt/sesegment
COPY pyproject.toml setup.py constraints.txt README.md LICENSE.txt ./
COPY container/install.sh container/install.sh
COPY SESegmentation SESegmentation
COPY weights weights
RUN DEVICE="${DEVICE}" TORCH_INDEX="${TORCH_INDEX}" sh container/install.sh
RUN mkdir -p /app/data/input_data /app/data/output_data && chmod 777 /app/data/output_data

# MHub mounts its folders there; mercure says by these variables where its own are
ENV MERCURE_IN_DIR=/app/data/input_data \
    MERCURE_OUT_DIR=/app/data/output_data \
    PATH=/opt/sesegment/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["sesegment"]
CMD ["dicom"]
