"""The whole way of a trial: `det e create`, the container, the launcher, the YAML's entrypoint."""

import time

from tests.cluster.agent import CommandLine


def overrides(**values) -> list[str]:
    return [f"--config={name.replace('__', '.')}={value}" for name, value in values.items()]


def test_finetune_launch(master, agent, det, models, pictures):
    hp = "hyperparameters"
    t = time.time()
    said = det(
        "e",
        "create",
        "finetune_const.yaml",
        ".",
        *overrides(
            hyperparameters__model__pretrained_model_name_or_path=models["sd1"],
            hyperparameters__concepts__img_dirs=pictures,
            hyperparameters__training__num_sgd_steps=60,
            hyperparameters__training__checkpoint_freq=40,
            hyperparameters__training__metric_report_freq=1,
            hyperparameters__inference__num_inference_steps=2,
            data__secrets__hf_token="hf_SECRET",
        ),
    )
    print(said, time.time() - t)
    (experiment,) = master.experiments.values()
    print([f["path"] for f in experiment.files])
    print(sum(len(f["content"] or "") for f in experiment.files))
    (trial,) = experiment.trials
    t = time.time()
    container = agent.launch(trial)
    with master.changed:
        assert master.changed.wait_for(lambda: len(trial.metrics("training")) >= 5, 60), (
            container.log
        )
    print("first metrics", time.time() - t)
    t = time.time()
    print(det("e", "pause", "1"))
    code = agent.finish(container)
    print("left", time.time() - t, code)
    print(container.log)
    print(master.requests)
    assert 0
