"""The one exception for mistakes a user can mend, and the wording of its messages.

`main` prints a `UserError` as one line without a traceback and exits with a code that is not zero, so its
message has to stand alone: what is wrong (the file or key by name), what was expected, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input or the configuration; the message says what to do about it."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """The error for a name that is not among `choices`; it names the nearest one and lists them all."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return UserError(f"unknown {kind} {name!r}{hint} known: {', '.join(known)}")
