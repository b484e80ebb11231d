"""Make torchaudio importable with a CPU torch. Runs in templates and in spawned workers.

The torchaudio wheel on the default package index is linked against CUDA. With a CPU torch its
compiled extension cannot be loaded, and `import torchaudio` raises OSError. The extension is not
needed: this project and FunASR use only plain Python from torchaudio (`compliance.kaldi`,
`functional.resample`).
"""

from __future__ import annotations

import importlib
import sys

_LOADER = "torchaudio._extension.utils"


def ensure_torchaudio() -> None:
    """Import torchaudio, without its compiled extension if that cannot be loaded.

    Call it before anything imports torchaudio, as FunASR does. Any other problem raises what
    `import torchaudio` raises.
    """
    try:
        importlib.import_module("torchaudio")
    except OSError:
        # Python removes a package whose import failed, but keeps its submodules that succeeded. So
        # the second attempt uses this loader, which now behaves as if there were no extension.
        loader = sys.modules.get(_LOADER)
        if loader is None:
            raise
        vars(loader)["_load_lib"] = lambda lib: False
        importlib.import_module("torchaudio")
