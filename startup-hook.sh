# Installs what the bundle needs inside Determined's container, once, before its processes start.
# It is sourced under `set -e`: a step that fails ends the container, with pip's words in the log.
# The image's own torch, and the determined that the agent has put there, stay as they are.
python3 - <<'PY' > /tmp/detsd-constraints.txt
import importlib.metadata
import pathlib

keep = ("torch", "determined")
pins = pathlib.Path("constraints.txt").read_text().splitlines()
print(*(pin for pin in pins if pin.partition("==")[0] not in keep), sep="\n")
print(*(f"{name}=={importlib.metadata.version(name)}" for name in keep), sep="\n")
PY
python3 - <<'PY' > /tmp/detsd-requirements.txt
import os
import pathlib
import tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
extra = os.environ.get("DETSD_EXTRA")  # detsd-notebook.yaml's is "notebook"
more = project["optional-dependencies"][extra] if extra else []
print(*project["dependencies"], *more, sep="\n")
PY
python3 -m pip install --quiet --constraint /tmp/detsd-constraints.txt \
    --requirement /tmp/detsd-requirements.txt
