"""Text from files and names, for one line of a terminal or a log."""

LONGEST = 2000
"""Characters of a line."""


def printable(text: str) -> str:
    """``text`` with control characters as escapes, and without the middle if it is very long.

    Names of files, and values in them, may hold what moves the cursor or changes the terminal.

    >>> printable("a\\x1b[31m b\\n")
    'a\\\\x1b[31m b\\\\n'
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
