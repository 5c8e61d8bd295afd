# The trainer with its CUDA build of torch, and the evaluation that it can run beside. Not built in the development
# environment, which has no container engine.
#
#   docker build -f deploy/kubernetes/train.Dockerfile -t REGISTRY/diht-train:TAG .        (from the root of the checkout)
FROM python:3.11-slim-bookworm

RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
COPY setup.py pyproject.toml requirements.lock README.md LICENSE NOTICE /src/
COPY open_diht /src/open_diht
COPY common /src/common
COPY trainer /src/trainer
COPY eval /src/eval
ENV XDG_CACHE_HOME=/tmp/cache
RUN pip install --no-cache-dir uv==0.13.9 \
 && uv pip install --system --no-cache --constraint /src/requirements.lock '/src[train,eval,cloud]' \
 && python -c 'import open_clip, torch, open_diht.trainer.loop' \
 && pip check \
 && rm -rf /src
USER nobody
WORKDIR /tmp
ENTRYPOINT ["python", "-m", "open_diht.trainer"]
