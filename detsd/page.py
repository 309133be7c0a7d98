"""The gallery page of a grid: the index of its images, embedded in one file to open from disk."""

import base64
import hashlib
import html
import json
import math
import re
from pathlib import Path

from detsd.imagestore import INDEX, Record, read_records
from detsd.storage import write_whole

PAGE = "index.html"
TEMPLATE = Path(__file__).with_name("page.html")
EXACT = 2**53  # JavaScript's numbers hold every integer up to here
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


def _records(index: Path) -> list[Record]:
    """Return the index's records; of two about one file the later one."""
    return list({record["file"]: record for record in read_records(index)}.values())


def _embedded(records: list[Record]) -> str:
    """Return the records as JSON in ASCII that no HTML parser finds markup in."""
    lines = (json.dumps(_exact(record), separators=(",", ":")) for record in records)
    text = "[\n" + ",\n".join(lines) + "\n]"
    for character in "<>&":  # outside of strings JSON has none of them
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _exact(record: Record) -> Record:
    """Return the record without what JavaScript's numbers and JSON cannot hold."""
    metrics = record.get("metrics", {}).items()
    finite = {name: value if math.isfinite(value) else None for name, value in metrics}
    seed = record["seed"]
    return {**record, "metrics": finite, "seed": str(seed) if seed > EXACT else seed}


def _text(title: str) -> str:
    # ASCII, as everything else on the page: it reads the same in whatever encoding it is written.
    return html.escape(title).encode("ascii", "xmlcharrefreplace").decode()


def _policy(template: str) -> str:
    return POLICY.format(script=_hash("script", template), style=_hash("style", template))


def _hash(tag: str, template: str) -> str:
    """Return what allows this one element, whatever else finds its way into the page."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
