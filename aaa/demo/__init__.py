"""`aaa demo`: every party in a process of its own, and tables of who holds which key.

Every check that the tables show decides over the exit status; nothing is told that was not seen.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from aaa.demo.play import Play
from aaa.demo.stage import Stage
from kdc.errors import RoamkeyError


async def run_demo(*, keep: Path | None = None) -> int:
    """0 only if everything held; the folder is removed unless it was named."""
    console = Console()
    if not console.is_terminal:
        console.width = 160
    folder = keep or Path(tempfile.mkdtemp(prefix="roamkey-demo-"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)  # PostgreSQL never runs as root and must reach its own folder in it
    stage = Stage(folder.absolute())
    try:
        return 0 if await Play(stage, console).perform() else 1
    except RoamkeyError as error:
        Console(stderr=True, markup=False, soft_wrap=True).print(f"the demo failed: {error}")
        return 1
    finally:
        await stage.stop()
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
