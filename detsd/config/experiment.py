"""What an experiment YAML says around its hyperparameters, as far as a local run obeys it."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from detsd.config.hub import hub_variable
from detsd.config.read import Count, Integer, Section, Seed

Amount = Annotated[Integer, Field(ge=0)]
NEEDED = {
    "s3": ("bucket",),
    "gcs": ("bucket",),
    "azure": ("container",),
    "directory": ("container_path",),
    "shared_fs": ("host_path",),
}
SECRETS = ("access_key", "secret_key", "connection_string", "credential")


def _words(command: Any) -> Any:
    if isinstance(command, str):
        return command.split()
    if not isinstance(command, list):
        raise ValueError("a command is wanted")
    return command


def _a_length(value: Any) -> Any:
    length = value.get("batches", 1) if isinstance(value, Mapping) else value
    if value is not None and (
        isinstance(length, bool) or not isinstance(length, int) or length < 0
    ):
        raise ValueError("a number of steps is wanted")
    return value


class Searcher(Section):
    """Which points of the hyperparameters are run, and how their checkpoints are ranked."""

    name: Literal["single", "grid", "random", "adaptive_asha", "async_halving"] = "single"
    """Without a cluster: `single`, `grid` or `random`."""
    metric: str = "loss"
    """The validation metric that ranks checkpoints and trials."""
    smaller_is_better: bool = True
    """Whether less of it is better."""
    max_length: Annotated[Any, BeforeValidator(_a_length)] = None
    """A number of steps: the target when the hyperparameters name none, else a cap on it."""
    source_trial_id: Any = None
    """Set by *Continue Trial*; without a cluster use --from."""
    source_checkpoint_uuid: Any = None
    """As above."""
    max_concurrent_trials: Any = None
    max_trials: Count | None = None
    """How many points `random` draws."""
    max_time: Any = None
    time_metric: Any = None
    divisor: Any = None
    max_rungs: Any = None
    num_rungs: Any = None
    bracket_rungs: Any = None
    mode: Any = None
    stop_once: Any = None

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What a searcher cannot do without, and what only a master can do."""
        name = raw.get("name", "single")
        if name in ("adaptive_asha", "async_halving"):
            advice = "--set searcher.name=random runs the same space here"
            yield "name", f"{name} needs a cluster; {advice}"
        if name == "random" and raw.get("max_trials") is None:
            yield "max_trials", "missing; searcher `random` needs the number of points to draw"
        for key in ("source_trial_id", "source_checkpoint_uuid"):
            if raw.get(key) is not None:
                yield key, "needs a cluster; use --from CHECKPOINT here"


class Reproducibility(Section):
    """What a search draws follows from it."""

    experiment_seed: Seed | None = None
    """Of the points that searcher `random` draws; 0 when absent."""


class Resources(Section):
    """What a trial runs on."""

    slots_per_trial: Amount = 1
    """Devices of a trial, and a factor of the effective batch however many there really are."""
    max_slots: Any = None
    weight: Any = None
    priority: Any = None
    resource_pool: Any = None
    shm_size: Any = None
    is_single_node: Any = None
    devices: Any = None
    agent_label: Any = None


def _an_assignment(line: str) -> str:
    if "=" not in line:
        raise ValueError("NAME=VALUE is wanted")
    return line


def _all_groups(value: Any) -> Any:
    # A cluster takes the group of the agent's kind; here that of the CPU, then that of the GPU.
    if isinstance(value, Mapping) and all(isinstance(group, list) for group in value.values()):
        return [line for kind in sorted(value) for line in value[kind]]
    return [] if value is None else [value] if isinstance(value, str) else value


class Environment(Section):
    """What the processes find around them."""

    environment_variables: Annotated[
        tuple[Annotated[str, AfterValidator(_an_assignment)], ...], BeforeValidator(_all_groups)
    ] = ()
    """NAME=VALUE lines; a variable that is already set outside wins."""
    image: Any = None
    pod_spec: Any = None
    registry_auth: Any = None
    ports: Any = None
    force_pull_image: Any = None
    add_capabilities: Any = None
    drop_capabilities: Any = None
    proxy_ports: Any = None

    @property
    def variables(self) -> dict[str, str]:
        """The variables by name."""
        return dict(line.split("=", 1) for line in self.environment_variables)


class CheckpointStorage(Section):
    """Where checkpoints go, and which are kept when the experiment ends."""

    type: Literal["s3", "gcs", "azure", "directory", "shared_fs"] | None = None
    """Absent: the run's own folder."""
    bucket: str | None = None
    prefix: str | None = None
    endpoint_url: str | None = None
    access_key: str | None = None
    secret_key: str | None = None
    container: str | None = None
    connection_string: str | None = None
    account_url: str | None = None
    credential: str | None = None
    container_path: str | None = None
    host_path: str | None = None
    storage_path: str | None = None
    propagation: str | None = None
    save_experiment_best: Amount = 0
    """How many of the experiment's best checkpoints are kept."""
    save_trial_best: Amount = 1
    """How many of each trial's best."""
    save_trial_latest: Amount = 1
    """How many of each trial's latest."""

    @classmethod
    def disagreements(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What a type of storage cannot do without."""
        for key in NEEDED.get(str(raw.get("type")), ()):
            if not raw.get(key):
                yield key, f"missing; storage of type {raw['type']} needs it"
        if raw.get("type") is None and any(
            raw.get(key) for keys in NEEDED.values() for key in keys
        ):
            yield "type", "missing; one of s3, gcs, azure, directory, shared_fs"

    @property
    def place(self) -> dict[str, Any]:
        """The keys that say where, as Determined's storage managers take them."""
        rules = {"save_experiment_best", "save_trial_best", "save_trial_latest"}
        return {key: value for key, value in self if value is not None and key not in rules}


class Experiment(Section):
    """A whole experiment YAML."""

    hyperparameters: dict[str, Any]
    """What the entry point reads: see FinetuneConfig."""
    entrypoint: Annotated[tuple[str, ...], BeforeValidator(_words)] = ("detsd.finetune",)
    """The command of a trial; without a cluster its module decides what is run."""
    searcher: Searcher = Searcher()
    """Which points are run."""
    resources: Resources = Resources()
    """On how many slots."""
    environment: Environment = Environment()
    """With which variables."""
    checkpoint_storage: CheckpointStorage = CheckpointStorage()
    """Where its checkpoints go."""
    reproducibility: Reproducibility = Reproducibility()
    """What its searcher draws."""
    data: Any = None
    """Whatever else; `secrets.hf_token` is the hub's."""
    name: Any = None
    description: Any = None
    labels: Any = None
    workspace: Any = None
    project: Any = None
    max_restarts: Any = None
    preemption_timeout: Any = None
    bind_mounts: Any = None
    profiling: Any = None
    log_policies: Any = None
    retention_policy: Any = None
    integrations: Any = None
    slurm: Any = None
    pbs: Any = None
    debug: Any = None
    template: Any = None
    min_validation_period: Any = None
    min_checkpoint_period: Any = None
    records_per_epoch: Any = None
    scheduling_unit: Any = None
    optimizations: Any = None
    perform_initial_validation: Any = None
    checkpoint_policy: Any = None
    data_layer: Any = None

    @property
    def variables(self) -> dict[str, str]:
        """What its processes find in their environment."""
        variables = self.environment.variables
        return variables | hub_variable(self.data)
