"""The hub's token: where a YAML may keep it, and where it does not turn up."""

import pytest

from detsd.config import Experiment, hub_variable, is_exposed, read
from detsd.local import hide_secrets

PLACEHOLDER = "YOUR_HF_AUTH_TOKEN_HERE"


@pytest.mark.parametrize(
    ("data", "variables"),
    [
        ({"secrets": {"hf_token": "hf_abc"}}, {"HF_TOKEN": "hf_abc"}),
        ({"secrets": {"hf_token": PLACEHOLDER}}, {}),
        ({"secrets": {"hf_token": "********"}}, {}),
        ({"secrets": {"other": "x"}}, {}),
        ({"secrets": None}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_the_hubs_client_is_given_the_secret(data, variables):
    assert hub_variable(data) == variables


def test_without_a_cluster_the_secret_is_read_and_not_written_down():
    raw = {"hyperparameters": {}, "data": {"secrets": {"hf_token": "hf_abc"}, "note": "kept"}}
    assert read(Experiment, raw).variables == {"HF_TOKEN": "hf_abc"}
    assert hide_secrets(raw)["data"] == {"secrets": {"hf_token": "****"}, "note": "kept"}


def test_a_token_that_everybody_can_read_is_noticed():
    lines = {"cuda": ["HF_TOKEN=hf_abc", "OTHER=1"]}
    assert is_exposed({"HF_TOKEN": "hf_abc"}, {"environment_variables": lines})
    assert not is_exposed({"HF_TOKEN": "hf_abc"}, {"environment_variables": ["OTHER=1"]})
    assert not is_exposed({"HF_TOKEN": PLACEHOLDER}, {"x": [f"HF_TOKEN={PLACEHOLDER}"]})
    assert not is_exposed({}, {"environment_variables": lines})
