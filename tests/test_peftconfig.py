"""What peft's config says of alpha: as peft itself has it, and no pattern is ever tried."""

import re

import pytest
from peft.utils.other import get_pattern_key

from detsd.peftconfig import alphas_in

FC1 = "text_model.encoder.layers.0.mlp.fc1"
TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    "patterns",
    [
        {},
        {"to_q": 1, "fc1": 2},
        {"mlp.fc1": 1, "fc1": 2},
        {"fc1": 2, "mlp.fc1": 1},
        {"o_q": 1, "c1": 2, "attn1.to": 3},
        {"^to_q": 1, "^mlp.fc1$": 2, "to_q$": 3},
        {f"^{TO_Q}$": 1, f"^{FC1}$": 2},
        {re.escape(TO_Q): 1, re.escape(FC1): 2},
    ],
    ids=str,
)
def test_names_and_their_ends_mean_what_they_mean_to_peft(patterns):
    parts = {"unet": TO_Q, "text_encoder": FC1}
    config = {f"{part}.lora_alpha": 9 for part in parts}
    config |= {f"{part}.alpha_pattern": patterns for part in parts}
    for part, path in parts.items():
        wanted = patterns.get(get_pattern_key(patterns.keys(), path), 9)
        assert alphas_in(config)[part].of(path, 4) == wanted


def test_a_whole_name_may_lack_the_segment_that_the_model_lacks():
    short = FC1.removeprefix("text_model.")
    config = {"text_encoder.lora_alpha": 9, "text_encoder.alpha_pattern": {f"^{short}": 1}}
    assert alphas_in(config)["text_encoder"].of(FC1, 4) == 1


def test_only_the_parts_that_are_told_of_have_alphas():
    assert alphas_in({}) == {}
    assert alphas_in({"text_encoder_2.lora_alpha": 2}).keys() == {"text_encoder_2"}
    assert alphas_in({"lora_alpha": 2, "use_rslora": True})["unet"].of(TO_Q, 4) == 4


@pytest.mark.parametrize("pattern", ["([a-z_0-9.]+)+!", "(" * 5000, "to_[qk]", ".*to_q", "a\\", ""])
def test_a_regular_expression_is_refused_and_not_tried(pattern):
    with pytest.raises(ValueError, match="regular expression, of which none is tried; names of"):
        alphas_in({"lora_alpha": 2, "alpha_pattern": {pattern: 1}})


@pytest.mark.parametrize("alpha", [10**400, None, "much", [], {}])
def test_an_alpha_that_is_no_number_is_refused(alpha):
    for config in ({"lora_alpha": alpha}, {"lora_alpha": 1, "alpha_pattern": {"a": alpha}}):
        with pytest.raises(ValueError, match="its lora_adapter_metadata cannot be used"):
            alphas_in(config)
