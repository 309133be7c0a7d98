"""Which words are common, and who is warned of them."""

from detsd.config import FinetuneConfig, read
from detsd.rarity import is_common, warn_of_common_words
from tests.trials import LORA, run


def test_a_word_is_common_if_each_part_is_one_frequent_token(load):
    wanted = {
        "a": True,
        "A": True,  # a prompt's case is ignored
        "b a": True,
        "fbernuy": False,
        "ab": False,  # two frequent tokens, which say nothing together
        "a fbernuy": False,
        "photo": False,  # one token, but a rare one in this vocabulary
        "a photo": False,
    }
    tokenizer = load("sd1").encoders[0].tokenizer
    assert {word: is_common(word, tokenizer) for word in wanted} == wanted


def test_a_common_word_is_warned_of(tmp_path, make, caplog):
    run(tmp_path / "rare", make(LORA, num_sgd_steps=2))
    assert "common word" not in caplog.text
    hparams = make(LORA, num_sgd_steps=2)
    hparams["concepts"] |= {"concept_strs": "a", "instance_prompt": "a logo"}
    run(tmp_path / "common", hparams)
    assert "a is a common word" in caplog.text


def test_each_common_word_is_warned_of_where_it_has_no_vectors_of_its_own(load, make, caplog):
    def warned(method):
        hparams = make(method)
        each = {key: [hparams["concepts"][key]] * 3 for key in ("initializer_strs", "img_dirs")}
        words = {"concept_strs": ["a", "fbernuy", "b"], "instance_prompt": "a {}"}
        hparams["concepts"] |= {**each, **words}
        caplog.clear()
        warn_of_common_words(read(FinetuneConfig, hparams), load("sd1"))
        return [record.args[0] for record in caplog.records]

    assert warned(LORA) == warned({"kind": "full"}) == ["a", "b"]
    assert warned({**LORA, "vectors_learning_rate": 1e-3}) == []
