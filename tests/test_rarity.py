"""Which words are common, and who is warned of them."""

from tests.trials import LORA, run


def test_a_common_word_is_warned_of(tmp_path, make, caplog):
    run(tmp_path / "rare", make(LORA, num_sgd_steps=2))
    assert "common word" not in caplog.text
    hparams = make(LORA, num_sgd_steps=2)
    hparams["concepts"] |= {"concept_strs": "a", "instance_prompt": "a logo"}
    run(tmp_path / "common", hparams)
    assert "a is a common word" in caplog.text
