"""Runs one target under atheris: the only module that imports it, and only when it is asked to.

What a target judges is in its own file; what libFuzzer finds goes to .fuzz/, never to the corpus.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Final

Judge = Callable[[bytes], None]
"""Raises, whatever, if the decoders do not keep what they promise of these octets."""

CORPUS: Final = Path(__file__).parent / "corpus"
FOUND: Final = Path(__file__).parents[2] / ".fuzz"
_OURS: Final = ("aaa.", "kdc.")
# One input takes less than a millisecond; a decoder that needs seconds does not end in bounds.
_TIMEOUT_S: Final = 5
_MEMORY_MB: Final = 1024


def fuzz(name: str, judge: Judge, *, maximum_octets: int) -> None:
    """Does not return.  Options of libFuzzer, or files to judge again, stand on the command line.

    Of the product everything that the target has imported is instrumented, nothing else: what a
    library does would drown what our branches do.
    """
    import atheris

    for module in [module for name, module in sys.modules.items() if name.startswith(_OURS)]:
        for function in _functions(module):
            atheris.instrument_func(function)
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_len={maximum_octets}",
        f"-timeout={_TIMEOUT_S}",
        f"-rss_limit_mb={_MEMORY_MB}",
        f"-artifact_prefix={FOUND / name}-",
    ]
    given = sys.argv[1:]
    folders = [] if any(not word.startswith("-") for word in given) else [found, CORPUS / name]
    atheris.Setup([sys.argv[0], *options, *given, *map(str, folders)], judge)
    atheris.Fuzz()


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Every function that the module defines, those of its classes included."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type):
            for member in list(vars(value).values()):
                if isinstance(member, property):
                    member = member.fget  # noqa: PLW2901
                elif isinstance(member, (classmethod, staticmethod)):
                    member = member.__func__  # noqa: PLW2901
                if isinstance(member, FunctionType) and member.__module__ == module.__name__:
                    yield member
