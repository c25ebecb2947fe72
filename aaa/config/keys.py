"""[keys] of a process that holds associations: where they go for other software."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from aaa.policy import NotEmpty
from kdc.config import ConfiguredPath, StrictModel, Text


def _check_command(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """A command that is given keys: nobody but root and us may have put its program there."""
    program = Path(arguments[0])
    if not program.is_absolute():
        raise ValueError("expected the absolute path of a program first: no shell looks for it")
    try:
        status = program.stat()
    except OSError as error:
        raise ValueError(f"expected a program that we can execute: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode) or not os.access(program, os.X_OK):
        raise ValueError("expected a program that we can execute")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise ValueError("expected a program that only root or the user of this process can change")
    return arguments


class KeyOutletSettings(StrictModel):
    """[keys]: where the associations of a process go for other software (docs/key-use.md)."""

    file: ConfiguredPath | None = None
    command: (
        Annotated[tuple[Text, ...], Field(max_length=64), NotEmpty, AfterValidator(_check_command)]
        | None
    ) = None
    timeout_s: float = Field(default=10.0, gt=0, le=300)

    @model_validator(mode="after")
    def _has_an_outlet(self) -> KeyOutletSettings:
        if self.file is None and self.command is None:
            raise ValueError("expected file, command or both")
        return self
