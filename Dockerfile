# The judging container: code and weights inside, no network needed at run time.
#
#   docker build -t liveness .
#   docker run --network none --gpus '"device=0"' -v "$PWD/videos:/data" -v "$PWD/out:/result" liveness
#   docker run --gpus '"device=0"' -p9777:9777 -v "$PWD/videos:/data" -v "$PWD/out:/result" liveness \
#     /bin/bash /code/start_jupyter.sh
#
# Build it after download_weights.sh or train.sh, so that weights/ holds the members. Runs as root or
# under any --user that may write to /result. scripts/test_container.sh builds and tries it.
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm
FROM ${PYTHON_IMAGE}

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# Dependencies before the source: a change of code does not install them again.
WORKDIR /code
COPY requirements.txt requirements-notebook.txt constraints.txt ./
RUN python -m pip install -r requirements.txt -r requirements-notebook.txt

# Whatever wants a home, a cache or a user name gets one that every uid can use.
ENV PYTHON=/usr/local/bin/python \
    PYTHONPATH=/code/src \
    HOME=/tmp \
    USER=liveness \
    XDG_CACHE_HOME=/tmp/.cache \
    MPLCONFIGDIR=/tmp/.cache/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/.cache/torchinductor \
    HF_HUB_OFFLINE=1 \
    NO_ALBUMENTATIONS_UPDATE=1

# Weights change less often than code. Readable for every uid, whatever the modes were outside.
COPY --chmod=755 weights weights/
COPY --chmod=755 configs configs/
COPY --chmod=755 scripts scripts/
COPY --chmod=755 src src/
COPY --chmod=755 notebooks notebooks/
COPY --chmod=755 predict.sh start_jupyter.sh jupyter.sh predict_notebook.ipynb ./
COPY --chmod=755 prepare_data.sh train.sh download_weights.sh create_sample_sub.py pyproject.toml LICENSE ./

EXPOSE 9777
CMD ["/bin/bash", "/code/predict.sh"]
