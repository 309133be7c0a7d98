"""What a YAML may say: defaults, what is coerced, and what is refused in which words."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from detsd.config import ConfigError, Experiment, FinetuneConfig, TrainingConfig, Word, hub_token
from detsd.config import read as read_config

TWO = {"concept_strs": ["a-b", "c-d"], "initializer_strs": ["x", "y"]}
EARLIER_DEFAULTS = """
model: {pretrained_model_name_or_path: CompVis/stable-diffusion-v1-4}
concepts: {img_size: null, interpolation: bicubic, flip_p: 0.0, center_crop: true,
  append_file_name_to_text: false, file_name_split_char: _, num_blank_prompts: 0, num_a_prompts: 0}
training: {num_sgd_steps: 100, train_batch_size: 1, gradient_accumulation_steps: 4,
  optimizer_name: adam, learning_rate: 0.0005, other_optimizer_kwargs: {}, scale_lr: true,
  checkpoint_freq: 50, metric_report_freq: 50, beta_start: null, beta_end: null,
  beta_schedule: null, num_train_timesteps: null, train_seed: 2147483647,
  norm_reg_weight: null, hidden_reg_weight: null}
inference: {generate_training_images: true, inference_prompts: null, num_pipeline_calls: 1,
  inference_batch_size: 1, inference_scheduler_name: pndm, num_inference_steps: 50,
  scheduler_kwargs: {skip_prk_steps: true}, guidance_scale: 7.5,
  main_process_generator_seed: 2147483647}
"""
NOTHING: dict[str, Any] = {}
Read = Callable[..., FinetuneConfig]


@pytest.fixture
def read(pictures: Path) -> Read:
    """Read a config of one concept, with the keys of its sections replaced or added."""

    def read_with(concepts: Mapping[str, Any] = NOTHING, **sections: Any) -> FinetuneConfig:
        words = concepts.get("concept_strs")
        count = len(words) if isinstance(words, list) and words else 1
        entries = {
            "concept_strs": ["det-logo"] * count,
            "initializer_strs": ["brain logo"] * count,
            "learnable_properties": ["object"] * count,
            "img_dirs": [str(pictures)] * count,
        }
        return read_config(FinetuneConfig, {"concepts": {**entries, **concepts}, **sections})

    return read_with


@pytest.mark.parametrize(("section", "defaults"), yaml.safe_load(EARLIER_DEFAULTS).items())
def test_the_defaults_are_the_earlier_examples(read: Read, section: str, defaults: Any) -> None:
    found = getattr(read(), section)
    assert {key: getattr(found, key) for key in defaults} == defaults


@pytest.mark.parametrize("written", ["6", 6, 6.0, "6.0", "6e0"])
@pytest.mark.parametrize(("key", "kind"), [("num_sgd_steps", int), ("learning_rate", float)])
def test_numbers_may_be_written_as_text_or_ints(key: str, kind: type, written: Any) -> None:
    value = getattr(read_config(TrainingConfig, {key: written}), key)
    assert (value, type(value)) == (6, kind)


@pytest.mark.parametrize("value", [True, False, float("nan"), float("inf"), "nan", "-inf", "yes"])
@pytest.mark.parametrize("key", ["learning_rate", "num_sgd_steps", "snr_gamma"])
def test_what_is_no_finite_number_is_refused_as_one(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: "):
        read_config(TrainingConfig, {key: value})


@pytest.mark.parametrize(
    "line",
    [
        "pndm: {} => {skip_prk_steps: true}",
        "pndm: {steps_offset: '1'} => {skip_prk_steps: true, steps_offset: 1.0}",
        "pndm: {skip_prk_steps: false} => {skip_prk_steps: false}",
        "ddim: null => {clip_sample: false}",
        "lms-discrete: {} => {}",
    ],
)
def test_extra_arguments_are_merged_over_the_defaults(read: Read, line: str) -> None:
    given, wanted = (yaml.safe_load(half) for half in line.split(" => "))
    ((name, extra),) = given.items()
    section = {"inference_scheduler_name": name, "other_inference_scheduler_kwargs": extra}
    assert read(inference=section).inference.scheduler_kwargs == wanted


@pytest.mark.parametrize(
    "line",
    [
        "{inference_scheduler_name: auto} => [dpm++-2m-karras, 20, {use_karras_sigmas: true}]",
        "{inference_scheduler_name: auto, num_inference_steps: null} => "
        "[dpm++-2m-karras, 20, {use_karras_sigmas: true}]",
        "{inference_scheduler_name: auto, num_inference_steps: 30, "
        "other_inference_scheduler_kwargs: {solver_order: 3}} => "
        "[dpm++-2m-karras, 30, {use_karras_sigmas: true, solver_order: 3}]",
        "{num_inference_steps: null} => [pndm, 50, {skip_prk_steps: true}]",
    ],
)
def test_auto_is_a_solver_and_its_steps_where_none_are_said(read: Read, line: str) -> None:
    given, wanted = (yaml.safe_load(half) for half in line.split(" => "))
    found = read(inference=given).inference
    settings = [found.inference_scheduler_name, found.num_inference_steps, found.scheduler_kwargs]
    assert settings == wanted


# What the YAML says => what the error does. Two lines fail:
BROKEN = """
training: {lerning_rate: 1} => training.lerning_rate: unknown; did you mean learning_rate?
training: {flip_p: 0.5} => training.flip_p: unknown; did you mean
training: {num_sgd_steps: 0} => training.num_sgd_steps:
training: {num_sgd_steps: 6.5} => training.num_sgd_steps:
training: {optimizer_name: adamm} => training.optimizer_name:
training: {precision: fp16} => training.precision:
training: {train_seed: -1} => training.train_seed:
training: {other_optimizer_kwargs: {momentum: 0.9}} => other_optimizer_kwargs.momentum: unknown
training: {other_optimizer_kwargs: {1: 0.9, b: 1}} => training.other_optimizer_kwargs
training: {other_optimizer_kwargs: 3} => training.other_optimizer_kwargs:
concepts: {concept_strs: [a-b, c-d], img_dirs: [.]} => img_dirs has 1
concepts: {concept_strs: [a-b, a-b], initializer_strs: [x, y]} => a-b is named twice
concepts: {concept_strs: [a-b, A-B]} => a-b and A-B differ only in case
concepts: {concept_strs: ' a'} => concepts.concept_strs[0]:
concepts: {concept_strs: a/b} => no slash
concepts: {learnable_properties: thing} => concepts.learnable_properties[0]:
concepts: {img_dirs: no/such} => concepts.img_dirs[0]: no such folder, found 'no/such'
concepts: {img_dirs: /dev/null} => concepts.img_dirs[0]: is not a folder
concepts: {templates: a photo} => concepts.templates[0][0]: a template holds {} once
concepts: {templates: 'a {0} {}'} => concepts.templates[0][0]: a template holds {} once
concepts: {templates: 'a } of {}'} => concepts.templates[0][0]:
concepts: {templates: [['a {}'], ['b {}']]} => concepts.templates: one entry a folder (1)
concepts: {num_vectors: [1, 2]} => concepts.num_vectors: one entry a folder (1)
concepts: {num_vectors: 0} => concepts.num_vectors[0]:
concepts: {num_vectors: true} => concepts.num_vectors
concepts: {concept_strs: [a-b, a-b], num_vectors: [1, 2]} => a-b is named twice, with 1 and 2
concepts: {flip_p: 1.5} => concepts.flip_p:
concepts: {crop_scale: [0.9, 0.8]} => concepts.crop_scale:
concepts: {crop_scale: 0.8} => concepts.crop_scale:
trainning: {} => trainning: unknown; did you mean training?
learning_rate: 1 => learning_rate: unknown; did you mean training.learning_rate?
model: {pretrained_model_name_or_path: ./no/such} => no such folder
inference: {inference_scheduler_name: eulr} => did you mean euler?
inference: {inference_prompts: ['']} => inference.inference_prompts[0]:
"""


@pytest.mark.parametrize("line", BROKEN.strip().splitlines())
def test_a_broken_config_is_refused_by_the_name_of_its_key(read: Read, line: str) -> None:
    sections, said = line.split(" => ")
    with pytest.raises(ConfigError) as caught:
        read(**yaml.safe_load(f"{{{sections}}}"))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("values", [None, [], "text", {}, {"concepts": {}}, {"concepts": None}])
def test_without_concepts_there_is_no_config(values: Any) -> None:
    with pytest.raises(ConfigError, match="mapping is wanted|missing|concepts"):
        read_config(FinetuneConfig, values)


@pytest.mark.parametrize("key", ["concept_strs", "img_dirs", "num_vectors", "templates"])
def test_an_empty_list_is_refused(read: Read, key: str) -> None:
    with pytest.raises(ConfigError, match=f"concepts.{key}: "):
        read({key: []})


def test_every_problem_is_in_the_one_error(read: Read) -> None:
    with pytest.raises(ConfigError) as caught:
        read({**TWO, "img_dirs": ["no"]}, training={"num_sgd_steps": 0, "zzz": 1}, extra={})
    keys = ["concepts: ", "concepts.img_dirs[0]: ", "training.num_sgd_steps: ", "training.zzz: "]
    assert all(any(p.startswith(key) for p in caught.value.problems) for key in [*keys, "extra: "])


def test_latents_are_kept_at_home_in_a_folder_or_nowhere(read: Read) -> None:
    for written, found in ((None, None), ("kept", Path("kept")), (False, "off"), ("off", "off")):
        assert read({"latents_dir": written}).concepts.latents_dir == found
    for written in ("", True, 3, ["kept"]):
        with pytest.raises(ConfigError, match="concepts.latents_dir: a folder, off or null"):
            read({"latents_dir": written})


def test_a_config_cannot_be_changed(read: Read) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read().training.num_sgd_steps = 7


def test_a_section_that_is_null_or_absent_has_its_defaults(read: Read) -> None:
    assert read(training=None, inference=None, model=None) == read()


def test_a_scalar_stands_for_a_list_of_one(read: Read, pictures: Path) -> None:
    scalars = {"concept_strs": "det-logo", "img_dirs": str(pictures)}
    assert read(scalars).concepts == read().concepts
    assert read(inference={"inference_prompts": "a"}).inference.prompts == ("a",)


def test_a_word_of_several_folders_is_learnt_once(read: Read, pictures: Path) -> None:
    folders = [str(pictures), str(pictures.parent), str(pictures)]
    lists = {"concept_strs": ["b-b", "a-a", "b-b"], "initializer_strs": ["x", "y", "x"]}
    templates = [["1 {}"], None, ["3 {}"]]
    concepts = read({**lists, "img_dirs": folders, "templates": templates}).concepts
    assert concepts.words == (Word("b-b", "x", None), Word("a-a", "y", None))
    assert [folder.word for folder in concepts.folders] == ["b-b", "a-a", "b-b"]
    assert [str(folder.path) for folder in concepts.folders] == folders
    assert [folder.templates for folder in concepts.folders] == [("1 {}",), None, ("3 {}",)]


def test_num_vectors_is_one_number_or_one_an_entry(read: Read) -> None:
    for written, wanted in ((None, [None, None]), ("3", [3, 3]), ([3, None], [3, None])):
        words = read({**TWO, "num_vectors": written}).concepts.words
        assert [word.num_vectors for word in words] == wanted


def test_a_word_starts_from_a_phrase_or_from_a_file(read: Read) -> None:
    nothing: dict[str, Any] = {"initializer_strs": None}
    words = read({**TWO, **nothing, "init_from": ["a.pt", "b.pt"]}).concepts.words
    assert [(word.initializer, word.source) for word in words] == [("", "a.pt"), ("", "b.pt")]
    words = read({**TWO, "init_from": [None, "b.pt"]}).concepts.words
    assert [(word.initializer, word.source) for word in words] == [("x", None), ("y", "b.pt")]
    words = read(
        {**TWO, "initializer_strs": ["x", None], "init_from": [None, "b.pt"]}
    ).concepts.words
    assert [(word.initializer, word.source) for word in words] == [("x", None), ("", "b.pt")]
    rare = {"method": {"kind": "lora"}}
    for changes, sections, problem in (
        ({**TWO, **nothing, "init_from": [None, "b.pt"]}, {}, "concepts.initializer_strs: missing"),
        ({**TWO, "init_from": ["a.pt"]}, {}, "init_from has 1"),
        (
            {**TWO, "initializer_strs": [None, "y"], "init_from": [None, "b.pt"]},
            {},
            "initializer_strs: a-b has neither a phrase nor a file",
        ),
        ({**TWO, "initializer_strs": ["x", None]}, {}, "c-d has neither a phrase nor a file"),
        ({"init_from": " "}, {}, "concepts.init_from"),
        ({"init_from": "a.pt"}, rare, "concepts.init_from: is for learnt vectors"),
        (
            {**nothing, "init_from": "a.pt"},
            {"training": {"hidden_reg_weight": 1}},
            "hidden_reg_weight: is a distance from concepts.initializer_strs",
        ),
    ):
        with pytest.raises(ConfigError, match=problem):
            read(changes, **sections)


@pytest.mark.parametrize("written", ["a {}", ["a {}"], [["a {}"]], [["a {}"], ["a {}"]]])
def test_templates_are_one_list_for_all_or_one_a_folder(read: Read, written: Any) -> None:
    folders = read({**TWO, "templates": written}).concepts.folders
    assert [folder.templates for folder in folders] == [("a {}",)] * 2


REFUSED_EXPERIMENTS = """
checkpoint_storage: {type: s3} => checkpoint_storage.bucket: missing
checkpoint_storage: {type: directory} => checkpoint_storage.container_path: missing
checkpoint_storage: {type: shared_fs} => checkpoint_storage.host_path: missing
checkpoint_storage: {bucket: b} => checkpoint_storage.type: missing
searcher: {name: adaptive_asha, max_trials: 4} => --set searcher.name=random runs the same space
searcher: {name: async_halving} => searcher.name: async_halving needs a cluster
searcher: {name: random} => searcher.max_trials: missing
searcher: {name: random, max_trials: 0} => searcher.max_trials: should be greater than
reproducibility: {experiment_seed: x} => reproducibility.experiment_seed: a number is wanted
searcher: {source_trial_id: 3} => searcher.source_trial_id: needs a cluster
searcher: {name: grod} => searcher.name: should be
hyperparameter: {} => did you mean hyperparameters?
environment: {environment_variables: [A]} => environment.environment_variables[0]: NAME=VALUE
environment: {environment_variables: {cuda: [A]}} => NAME=VALUE is wanted
"""


@pytest.mark.parametrize("line", REFUSED_EXPERIMENTS.strip().splitlines())
def test_an_experiment_is_refused_by_the_name_of_its_key(line: str) -> None:
    section, said = line.split(" => ")
    with pytest.raises(ConfigError) as caught:
        read_config(Experiment, {"hyperparameters": {"a": 1}, **yaml.safe_load(section)})
    assert said in str(caught.value)


def test_an_experiment_says_where_checkpoints_go_and_with_which_variables() -> None:
    storage = {"type": "s3", "bucket": "b", "prefix": "p", "save_trial_best": 2}
    environment = {"environment_variables": ["A=1", "B=x=y", "C="], "image": {"cpu": "image"}}
    sections = {"checkpoint_storage": storage, "environment": environment}
    read = read_config(Experiment, {"hyperparameters": {}, **sections})
    assert read.checkpoint_storage.place == {"type": "s3", "bucket": "b", "prefix": "p"}
    assert read.environment.variables == {"A": "1", "B": "x=y", "C": ""}
    assert (read.searcher.name, read.resources.slots_per_trial) == ("single", 1)


@pytest.mark.parametrize(
    ("environment", "token"),
    [
        ({}, None),
        ({"HF_TOKEN": " secret "}, "secret"),
        ({"HF_AUTH_TOKEN": "secret"}, "secret"),
        ({"HF_TOKEN": ""}, None),
        ({"HF_TOKEN": "YOUR_HF_AUTH_TOKEN_HERE", "HF_AUTH_TOKEN": "secret"}, "secret"),
        (dict.fromkeys(("HF_TOKEN", "HF_AUTH_TOKEN"), "YOUR_HF_AUTH_TOKEN_HERE"), False),
    ],
)
def test_the_hub_token_is_used_when_real_and_never_logged(
    environment: dict[str, str], token: str | bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert hub_token(environment) == token
    assert "secret" not in caplog.text
    assert len(caplog.records) == ("YOUR_HF_AUTH_TOKEN_HERE" in environment.values())
