"""The errors that a user can cause or meet; each message says what was found, what was wanted and what to try.

The command line turns a `WsistainError` into one sentence on standard error and exit code 2. Anything else is
our fault: exit code 1 with a traceback in a log file.
"""

_MOST = 800


def shown(text: object) -> str:
    """`text` as it may stand on a terminal or in a table: what is not printable is written as an escape.

    Names, notes and licences come from files of others. Control characters (a terminal obeys them), marks that turn
    the direction of writing, and bytes of a file name that are no text in this locale become `\\x1b`, `\\u202e`, `\\xe4`.
    Line breaks, tabs and spaces stay.
    """
    text = str(text)
    if text.isprintable():  # at once: pages hand over pictures of megabytes
        return text
    return "".join(c if c.isprintable() or c in "\n\t\xa0" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that it cannot decode
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class WsistainError(Exception):
    """Base of every error that bad input or the user's machine causes."""

    def __str__(self) -> str:
        """The sentence, printable; a message that quotes megabytes of a damaged file is cut in the middle."""
        text = super().__str__()
        if len(text) > 2 * _MOST:
            text = f"{text[:_MOST]} ... {text[-_MOST:]}"
        text = shown(text)
        return text if len(text) <= _MOST else f"{text[: _MOST // 2]} ... {text[-_MOST // 2 :]}"


class SlideError(WsistainError):
    """A file that is not a slide, cannot be decoded, or lacks what is needed (mpp, RGB, 8 bits)."""


class WeightsError(WsistainError):
    """Weights that are damaged, incomplete, for another marker, or not safetensors."""


class ConfigError(WsistainError, ValueError):
    """A key or value in a configuration file, sample sheet, region file or option that cannot be used."""


class OutputError(WsistainError):
    """An output that exists, belongs to another plan, or cannot be written."""


class DataError(WsistainError):
    """A folder of training or evaluation patches that does not hold what its layout promises."""


class TrainingError(WsistainError):
    """Training that cannot go on: a loss that is not finite, or a device that cannot do what was asked."""
