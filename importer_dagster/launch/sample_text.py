"""Text that matches a regular expression, for synthetic rows.

Understands what patterns of specs are made of: literals, escapes, classes,
groups, alternatives and counts. Every text is checked with ``re.fullmatch``,
so what is not understood (look-around, back-references, flags) is an error
and never a wrong value.

What does not belong here: which field gets which text (``launch/sample_values.py``).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from random import Random

from importer_dagster.errors import UsageError

Maker = Callable[[Random], str]

_MORE = 8  # how far beyond its minimum an open count such as * or {2,} goes
_TRIES = 400  # texts made before a pattern and its length limits are given up
_PRINTABLE = "".join(chr(c) for c in range(32, 127))
_CLASSES = {
    "d": string.digits,
    "w": string.ascii_letters + string.digits + "_",
    "s": " ",
}
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}


def text_maker(pattern: str, *, least: int = 0, most: int | None = None) -> Maker:
    """A function that makes texts of ``least`` to ``most`` characters that match ``pattern`` as a whole.

    Raises UsageError, here or when called, for a pattern that it cannot serve.
    """
    parser = _Parser(pattern)
    try:
        make = parser.alternatives()
        if parser.position != len(pattern):
            raise _NotUnderstood("a bracket too many")
    except (_NotUnderstood, IndexError) as error:
        raise UsageError(_sorry(pattern, str(error) or "it ends too early")) from None
    whole = re.compile(pattern)

    def checked(rng: Random) -> str:
        for _ in range(_TRIES):
            text = make(rng)
            if len(text) >= least and (most is None or len(text) <= most) and whole.fullmatch(text):
                return text
        raise UsageError(
            _sorry(pattern, f"no text of {least} to {most or 'any number of'} characters was found")
        )

    return checked


def _sorry(pattern: str, why: str) -> str:
    return (
        f"No synthetic text can be made for the pattern {pattern!r}: {why}. "
        "Use literals, classes, groups, alternatives and counts, or an enum."
    )


class _NotUnderstood(Exception):
    pass


class _Parser:
    """Recursive descent over a pattern; each method returns a maker of what it read."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.position = pattern, 0

    def _peek(self) -> str:
        return self.pattern[self.position : self.position + 1]

    def _next(self) -> str:
        self.position += 1
        return self.pattern[self.position - 1]

    def alternatives(self) -> Maker:
        choices = [self._sequence()]
        while self._peek() == "|":
            self._next()
            choices.append(self._sequence())
        return choices[0] if len(choices) == 1 else lambda rng: rng.choice(choices)(rng)

    def _sequence(self) -> Maker:
        parts: list[Maker] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._counted(self._atom()))
        return lambda rng: "".join(part(rng) for part in parts)

    def _counted(self, make: Maker) -> Maker:
        counts = {"?": (0, 1), "*": (0, _MORE), "+": (1, 1 + _MORE)}
        if self._peek() in counts and self._peek():
            low, high = counts[self._next()]
        elif found := re.compile(r"\{(\d*)(,?)(\d*)\}").match(self.pattern, self.position):
            self.position = found.end()
            low = int(found[1] or 0)
            high = int(found[3]) if found[3] else low + _MORE if found[2] else low
        else:
            return make
        if self._peek() in ("?", "+") and self._peek():
            self._next()  # lazy or possessive: the same texts
        return lambda rng: "".join(make(rng) for _ in range(rng.randint(low, high)))

    def _atom(self) -> Maker:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return _one_of(self._class())
        if char in "^$":
            return lambda rng: ""
        if char == ".":
            return _one_of(_CLASSES["w"])
        if char == "\\":
            return _one_of(self._escape())
        return lambda rng: char

    def _group(self) -> Maker:
        if self._peek() == "?":
            found = re.compile(r"\?(?::|P?<[A-Za-z_]\w*>)").match(self.pattern, self.position)
            if not found:
                raise _NotUnderstood(f"the group at character {self.position} is of a kind that is not known")
            self.position = found.end()
        make = self.alternatives()
        if self._next() != ")":
            raise _NotUnderstood("a group is not closed")
        return make

    def _escape(self) -> str:
        char = self._next()
        if char in "AZzbB":
            return ""
        if char in _CLASSES:
            return _CLASSES[char]
        if char.lower() in _CLASSES:
            return "".join(c for c in _PRINTABLE if c not in _CLASSES[char.lower()])
        if char in _CONTROL:
            return _CONTROL[char]
        if char in "xu":
            digits = 2 if char == "x" else 4
            code = self.pattern[self.position : self.position + digits]
            self.position += digits
            return chr(int(code, 16))
        if char.isalnum():
            raise _NotUnderstood(f"\\{char} is not known")
        return char

    def _class(self) -> str:
        negated = self._peek() == "^"
        if negated:
            self._next()
        members: list[str] = []
        while True:
            char = self._next()
            if char == "]" and members:
                break
            part = self._escape() if char == "\\" else char
            if self._peek() == "-" and self.pattern[self.position + 1] != "]" and len(part) == 1:
                self._next()
                last = self._next()
                last = self._escape() if last == "\\" else last
                part = "".join(chr(c) for c in range(ord(part), ord(last) + 1))
            members.append(part)
        found = "".join(members)
        return "".join(c for c in _PRINTABLE if c not in found) if negated else found


def _one_of(characters: str) -> Maker:
    if not characters:
        return lambda rng: ""
    return lambda rng: rng.choice(characters)
