"""Programs against the protocol's own C++ library, as Debian ships it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from services import require, require_file

HEADERS = Path("/usr/include/openigtlink")


def compiled(source: Path, folder: Path) -> str:
    """The path of the program made of `source`, in `folder`, once; skips the test where the
    compiler or the library is missing."""
    program = folder / source.stem
    if not program.exists():
        require_file(HEADERS / "igtlImageMessage.h", "libopenigtlink-dev")
        command = [require("g++"), "-O1", "-w", f"-I{HEADERS}", source, "-o", program]
        subprocess.run([*command, "-lOpenIGTLink", "-lpthread"], check=True)
    return str(program)
