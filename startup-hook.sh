# Installs what the bundle needs inside Determined's container, once, before its processes start.
# It is sourced under `set -e`: a step that fails ends the container, with pip's words in the log.
# What the image and the agent have put there, torch and determined, stays as it is.
detsd_folder=$(mktemp -d)
python3 - "$detsd_folder" <<'PY'
import importlib.metadata
import os
import pathlib
import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:2]))
    sys.exit(f"error: this image has Python {found}, and the bundle needs 3.11 and torch 2.6: "
             "name another in environment.image, as finetune_const.yaml does")
import tomllib

keep = {}
for name in ("torch", "determined"):
    try:
        keep[name] = f"{name}=={importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        pass  # in a Dockerfile there is no determined yet
pins = [pin for pin in pathlib.Path("constraints.txt").read_text().splitlines()
        if pin.partition("==")[0] not in keep]
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
extra = os.environ.get("DETSD_EXTRA")  # detsd-notebook.yaml's is "notebook"
wanted = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
folder = pathlib.Path(sys.argv[1])
(folder / "constraints.txt").write_text("\n".join([*pins, *keep.values()]))
(folder / "requirements.txt").write_text("\n".join(wanted))
PY
detsd_pip() {
    python3 -m pip install --disable-pip-version-check --root-user-action ignore \
        --constraint "$detsd_folder/constraints.txt" \
        --requirement "$detsd_folder/requirements.txt" "$@"
}
# What pip says of a conflict, it says only aloud.
detsd_pip --quiet || detsd_pip
rm -r "$detsd_folder"
unset -f detsd_pip
unset detsd_folder
