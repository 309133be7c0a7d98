"""What an error of another library says, in a line."""


def reason(error: BaseException) -> str:
    """Return the first line of its message, or its kind where it has none."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def one_line(text: str, most: int = 400) -> str:
    """Return what a stranger's file made of a message, fit for a terminal: no line's end in it."""
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
