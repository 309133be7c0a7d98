"""What an error of another library says, in a line."""


def reason(error: BaseException) -> str:
    """Return the first line of its message, or its kind where it has none."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__
