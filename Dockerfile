# The judging container: code and weights inside, no network needed at run time.
#
#   docker build -t liveness .
#   docker run --network none --gpus '"device=0"' -v "$PWD/videos:/data" -v "$PWD/out:/result" liveness
#
# Build it after download_weights.sh or train.sh, so that weights/ holds the members. Runs as root or
# under any --user that may write to /result.
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm
FROM ${PYTHON_IMAGE}

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# Dependencies before the source: a change of code does not install them again.
WORKDIR /code
COPY requirements.txt constraints.txt ./
RUN python -m pip install -r requirements.txt

# Whatever wants a home, a cache or a user name gets one that every uid can use.
ENV PYTHON=/usr/local/bin/python \
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
COPY --chmod=755 predict.sh prepare_data.sh train.sh download_weights.sh create_sample_sub.py LICENSE ./

CMD ["/bin/bash", "/code/predict.sh"]
