"""The gallery page: all of the index is in it, and nothing in the index is more than text."""

import ast
import base64
import hashlib
import inspect
import json
import re
import shutil
import tomllib
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from detsd.config import GridConfig, read
from detsd.generate import Pipeline, load_pipeline
from detsd.imagestore import INDEX
from detsd.page import TEMPLATE, write_page
from detsd.sweep import wanted_images

NASTY = (
    "</script><script>alert(1)</script>",
    "<!-- <script> &lt; %%title%% \\u003c",
    "line\u2028separator\u0085next \u202e\ufeff \U0001f600 \u96ea",
    "\"quoted\" 'twice' \\ #{}: - [] \x00\x1b\x7f\n\ttab",
)


def record(number: int, **changes) -> dict:
    return {
        "file": f"images/{number:06d}-3f2a9c.png",
        "cell": number,
        "prompt": "a photo of a det-logo",
        "negative_prompt": "",
        "seed": 2147483647 + number,
        "guidance_scale": 7.5,
        "steps": 50,
        "scheduler": "pndm",
        "scheduler_kwargs": {"steps_offset": 1, "set_alpha_to_one": False},
        "size": [64, 64],
        "concepts": ["det-logo"],
        "checkpoints": ["8f14e45f-ceea-467f-a0e6-2b2b1c2d3e4f", "demo/det-logo.safetensors"],
        "model": "demo/model",
        "seconds": 0.25,
        "flags": [],
        "metrics": {"fidelity": 0.75},
        **changes,
    }


def index(folder: Path, records: list[dict], torn: bytes = b"") -> None:
    lines = "".join(json.dumps(one) + "\n" for one in records)
    (folder / INDEX).write_bytes(lines.encode() + torn)


class Scripts(HTMLParser):
    """What a browser takes for scripts, with their attributes, and for the page's policy."""

    def __init__(self, page: Path):
        super().__init__()
        self.found: list[tuple[dict, str]] = []
        self.policy = ""
        self._inside = False
        self.feed(page.read_text(encoding="ascii"))

    def handle_starttag(self, tag, attrs):
        self._inside = tag == "script"
        if self._inside:
            self.found.append((dict(attrs), ""))
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"]

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            attributes, text = self.found[-1]
            self.found[-1] = (attributes, text + data)

    @property
    def records(self) -> list[dict]:
        [(attributes, text), _] = self.found
        assert attributes == {"type": "application/json", "id": "records"}
        return json.loads(text)


def test_a_page_holds_its_records_whatever_is_written_in_them(tmp_path):
    records = [record(n, prompt=prompt, unknown={prompt: [n]}) for n, prompt in enumerate(NASTY)]
    index(tmp_path, records)
    page = write_page(tmp_path, "a title")
    assert page == tmp_path / "index.html"
    assert Scripts(page).records == records


def test_a_title_is_text(tmp_path):
    index(tmp_path, [])
    text = write_page(tmp_path, "<b>\u96ea & %%records%%").read_text(encoding="ascii")
    assert text.count("&lt;b&gt;&#38634; &amp; %%records%%") == 2


@pytest.mark.parametrize("torn", [b'{"file": "images/', '{"prompt": "\u96ea'.encode()[:-1], b"\n"])
def test_a_line_that_a_killed_writer_left_torn_is_not_shown(tmp_path, torn):
    index(tmp_path, [record(0), record(1)], torn)
    assert Scripts(write_page(tmp_path, "")).records == [record(0), record(1)]


def test_a_file_listed_twice_is_shown_once(tmp_path):
    index(tmp_path, [record(0), record(1), record(0, seconds=2.5)])
    assert Scripts(write_page(tmp_path, "")).records == [record(0, seconds=2.5), record(1)]


def test_numbers_that_javascript_would_change_arrive_unchanged(tmp_path):
    index(tmp_path, [record(0, seed=2**63 - 1, metrics={"fidelity": float("nan")})])
    [one] = Scripts(write_page(tmp_path, "")).records
    assert one["seed"] == "9223372036854775807"
    assert one["metrics"] == {"fidelity": None}


def test_a_failed_write_leaves_the_page_before_it(tmp_path, monkeypatch):
    index(tmp_path, [record(0)])
    before = write_page(tmp_path, "").read_bytes()
    index(tmp_path, [record(0), record(1)])

    def full(descriptor):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="no space"):
            write_page(tmp_path, "")
    assert (tmp_path / "index.html").read_bytes() == before
    write_page(tmp_path, "")
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", INDEX}


def test_a_page_asks_nothing_of_any_network_and_runs_its_own_script_alone(tmp_path):
    index(tmp_path, [record(0)])
    page = write_page(tmp_path, "")
    text, scripts = page.read_text(), Scripts(page)
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(|\bfetch\b|XMLHttp|innerHTML", text)
    assert str(tmp_path) not in text  # it may be moved, with its images
    attributes, code = scripts.found[-1]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert attributes == {}
    assert scripts.policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")
    assert not {"unsafe-inline", "unsafe-eval", "*"} & set(re.split(r"[ ';]", scripts.policy))


def test_the_template_is_shipped_with_the_package():
    settings = tomllib.loads((TEMPLATE.parent.parent / "pyproject.toml").read_text())
    assert TEMPLATE.name in settings["tool"]["setuptools"]["package-data"]["detsd"]


@contextmanager
def browser_on(folder, records):
    """A page of a browser that shows the records, in which nothing goes wrong."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no chromium")
    index(folder, records)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message) or dialog.dismiss())
        page.goto(write_page(folder, "").as_uri())
        yield page
        browser.close()
    assert not problems


COPIES = "records.map((record) => [asYaml(record), asPython(record)])"


def test_a_browser_shows_prompts_as_text_and_copies_what_makes_the_image_again(tmp_path):
    records = [record(n, prompt=p, negative_prompt=p[::-1]) for n, p in enumerate(NASTY)]
    with browser_on(tmp_path, records) as page:
        copies = page.evaluate(COPIES)
        page.fill("#search", "SCRIPT alert")
        assert page.inner_text("#count") == "1 of 4 images"
        assert NASTY[0] in page.inner_text("#table")
    functions = (load_pipeline, Pipeline.__call__)
    known = {name for function in functions for name in inspect.signature(function).parameters}
    for (as_yaml, as_python), one in zip(copies, records, strict=True):
        config = read(GridConfig, yaml.safe_load(as_yaml)["hyperparameters"])
        [image] = wanted_images(config, slots=2)
        shared = image._asdict().keys() & one.keys() - {"cell"}
        assert {key: getattr(image, key) for key in shared} == {key: one[key] for key in shared}
        assert [image.width, image.height] == one["size"]
        found = (*config.uuids, *map(str, config.local_checkpoint_paths))
        assert list(found) == one["checkpoints"]
        assert config.pipeline.other_scheduler_kwargs == one["scheduler_kwargs"]
        nodes = list(ast.walk(ast.parse(as_python)))
        values = {node.value for node in nodes if isinstance(node, ast.Constant)}
        texts = {one[key] for key in ("prompt", "negative_prompt", "seed")}
        assert texts | set(one["checkpoints"]) | {"steps_offset", False} <= values
        assert {node.arg for node in nodes if isinstance(node, ast.keyword)} <= known


def test_a_browser_compares_images_with_and_without_an_adapter(tmp_path):
    plain = {"checkpoints": [], "adapter": None, "adapter_scale": None, "adapters": {}}
    style = {"adapter": "style", "adapter_scale": 0.5, "adapters": {"style": 0.5}}
    whole = {"adapter": "style", "adapter_scale": 1, "adapters": {"style": 1}}
    records = [record(n, **{**plain, **more}) for n, more in enumerate([whole, {}, style])]
    del records[1]["adapters"], records[1]["adapter"], records[1]["adapter_scale"]  # an old one
    with browser_on(tmp_path, records) as page:
        heads = page.locator("[role=columnheader]").all_inner_texts()
        assert [head.strip() for head in heads] == ["\u2014", "0.5", "1"]
        assert page.evaluate("defaultColumns()") == "adapter_scale"
        page.select_option("#columns", "adapter")
        heads = page.locator("[role=columnheader]").all_inner_texts()
        assert [head.strip() for head in heads] == ["\u2014", "style"]


def test_a_browser_copies_what_an_image_was_made_with(tmp_path):
    uuid = "8f14e45f-ceea-467f-a0e6-2b2b1c2d3e4f"
    swept = {"adapter": "style", "adapter_scale": 0.5, "adapters": {"style": 0.5}}
    cases = [
        (swept | {"checkpoints": ["word"]}, ["word"], ["style"], (0.5,)),
        ({"checkpoints": [uuid, "word"], "adapters": {uuid: 1}}, [uuid, "word"], [], (0.0, 1.0)),
        # Only a word of the adapter's checkpoint is in the prompt.
        ({"checkpoints": [], "adapters": {"pivotal": 0}}, [], ["pivotal"], (0.0,)),
        ({"checkpoints": ["whole"], "model": "whole", "adapters": {}}, ["whole"], [], (0.0, 1.0)),
    ]
    calls = [
        {"concepts": ["word"], "adapters": [("style", 0.5)]},
        {"concepts": ["word"], "adapters": [(uuid, 1)]},
        {"adapters": [("pivotal", 0)]},
        {},
    ]
    records = [record(n, **changes) for n, (changes, *_) in enumerate(cases)]
    with browser_on(tmp_path, records) as page:
        copies = page.evaluate(COPIES)
    for (as_yaml, as_python), (_, checkpoints, adapters, scales), call, one in zip(
        copies, cases, calls, records, strict=True
    ):
        raw = yaml.safe_load(as_yaml)["hyperparameters"]
        paths = raw.pop("local_checkpoint_paths", [])  # they are not here
        config = read(GridConfig, raw)
        assert [*config.uuids, *paths] == checkpoints
        assert (list(config.sweep.adapter), config.sweep.adapter_scale) == (adapters, scales)
        assert config.pipeline.pretrained_model_name_or_path == one["model"]
        loading = next(
            node
            for node in ast.walk(ast.parse(as_python))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_pipeline"
        )
        keywords = {node.arg: ast.literal_eval(node.value) for node in loading.keywords}
        assert keywords == call
        assert ast.literal_eval(loading.args[0]) == one["model"]
