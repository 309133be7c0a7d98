"""All weights: a whole model in the end, and their running mean where one is kept."""

import torch

from detsd.config import ModelConfig
from detsd.pretrained import load_model
from tests.trials import FULL, last, learnt, run


def test_an_export_of_all_weights_is_a_whole_model(tmp_path, make):
    folder = run(tmp_path, make(FULL))
    export = last(folder) / "export"
    loaded = load_model(ModelConfig(pretrained_model_name_or_path=str(export)), torch.device("cpu"))
    state = learnt(folder)
    for name, value in loaded.unet.state_dict().items():
        assert torch.equal(value, state[f"unet.{name}@mean"])  # what was sampled, too
    assert not torch.equal(state["unet.conv_in.weight"], state["unet.conv_in.weight@mean"])
