"""What the suite found, and how it is judged: without the suite, without a server.

A result file says for each case how the server behaved, and how it closed (`behavior` and `behaviorClose`, in the
suite's words). Any difference to the committed one is a finding. Beside that only `PERMITTED` words are ever good,
whatever the committed file says.
"""

import json
from dataclasses import dataclass
from pathlib import Path

EXPECTED = Path(__file__).parent / "expected.json"
# Cases that the suite has in its groups 1 to 11 (it has no groups 8 and 11).
CASES = 301
# INFORMATIONAL: the RFC leaves open what a server does there. Not FAILED, NON-STRICT, UNIMPLEMENTED, UNCLEAN, WRONG CODE …
PERMITTED = {"OK", "INFORMATIONAL"}
KEYS = ("behavior", "behaviorClose")


@dataclass(frozen=True)
class Finding:
    """One case that is not as it has to be. `None`: the case is missing on that side."""

    case: str
    expected: str | None
    got: str | None

    def __str__(self):
        return f"{self.case}: expected {self.expected or 'no such case'}, got {self.got or 'no result'}"


def compare(expected, got):
    """The cases that differ: in either word, or because only one side has them."""
    return [
        Finding(case, describe(expected.get(case)), describe(got.get(case)))
        for case in sorted(expected.keys() | got.keys(), key=in_order)
        if expected.get(case) != got.get(case)
    ]


def not_permitted(results):
    """The cases that are bad whatever was expected."""
    return [
        Finding(case, " or ".join(sorted(PERMITTED)), describe(result))
        for case, result in sorted(results.items(), key=lambda item: in_order(item[0]))
        if not PERMITTED.issuperset(result.values())
    ]


def describe(result):
    """A result in one line: `OK`, or `OK, close: UNCLEAN`; `None` of `None`."""
    if result is None:
        return None
    behavior, close = (result[key] for key in KEYS)
    return behavior if behavior == close else f"{behavior}, close: {close}"


def in_order(case):
    """Sorts 2.10 behind 2.9."""
    return [int(part) for part in case.split(".")]


def from_index(index):
    """The results in the suite's `index.json`, parsed. It has to be about one server."""
    (cases,) = index.values()
    return {case: {key: entry[key] for key in KEYS} for case, entry in cases.items()}


def read(path=EXPECTED):
    """A result file: an object from case to an object of the two words."""
    return json.loads(Path(path).read_text())


def write(results, path=EXPECTED):
    """Writes a result file, one line for each case, so that a diff shows cases."""
    lines = [f"  {json.dumps(case)}: {json.dumps(results[case])}" for case in sorted(results, key=in_order)]
    Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")
