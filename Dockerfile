# The image of the YAMLs with the bundle's requirements in it: a container then starts in seconds,
# and needs no package index.
#
#   docker build --tag REGISTRY/detsd . && docker push REGISTRY/detsd
#
# Name it as `environment.image`. startup-hook.sh stays in the context: it finds that all is there.
# Build again when pyproject.toml or constraints.txt changes.
FROM pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime

WORKDIR /tmp/detsd
COPY pyproject.toml constraints.txt startup-hook.sh ./
RUN DETSD_EXTRA=notebook PIP_NO_CACHE_DIR=1 bash -ec '. ./startup-hook.sh'
WORKDIR /
