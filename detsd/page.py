"""The gallery page of a grid: the index of its images, embedded in one file to open from disk."""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

from detsd.storage import write_whole

INDEX = "images.jsonl"
PAGE = "index.html"
TEMPLATE = Path(__file__).with_name("page.html")
EXACT = 2**53  # JavaScript's numbers hold every integer up to here
# JavaScript's JSON knows no NaN, which one metric of one image may be.
DECODER = json.JSONDecoder(parse_constant=lambda name: None)
# The page's own script and style, images beside it, and nothing else.
POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src 'self' file:; "
    "base-uri 'none'; form-action 'none'"
)


def write_page(folder: Path, title: str) -> Path:
    """Write folder/index.html about the images that folder/images.jsonl lists; return its path."""
    template = TEMPLATE.read_text(encoding="utf-8")
    values = {
        "policy": _policy(template),
        "title": _text(title),
        "records": _embedded(_records(folder / INDEX)),
    }
    page = folder / PAGE
    # In one pass, so that a prompt that holds a placeholder stays what it is.
    write_whole(page, re.sub(r"%%(\w+)%%", lambda match: values[match[1]], template))
    return page


def _records(index: Path) -> list[dict[str, Any]]:
    """Return the index's records; of two about one file the later one."""
    found = {}
    for line in index.read_bytes().split(b"\n"):
        try:
            record = DECODER.decode(line.decode())
        except ValueError:
            continue  # the line that a killed writer left torn, or the nothing after the last
        found[record["file"]] = record
    return list(found.values())


def _embedded(records: list[dict[str, Any]]) -> str:
    """Return the records as JSON in ASCII that no HTML parser finds markup in."""
    lines = (json.dumps(_exact(record), separators=(",", ":")) for record in records)
    text = "[\n" + ",\n".join(lines) + "\n]"
    for character in "<>&":  # outside of strings JSON has none of them
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _exact(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "seed": str(record["seed"])} if record["seed"] > EXACT else record


def _text(title: str) -> str:
    # ASCII, as everything else on the page: it reads the same in whatever encoding it is written.
    return html.escape(title).encode("ascii", "xmlcharrefreplace").decode()


def _policy(template: str) -> str:
    return POLICY.format(script=_hash("script", template), style=_hash("style", template))


def _hash(tag: str, template: str) -> str:
    """Return what allows this one element, whatever else finds its way into the page."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
