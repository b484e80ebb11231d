"""Make torchaudio importable beside a CPU torch. Runs in templates and in spawned workers.

The torchaudio wheel on the default package index is linked against CUDA. Beside a CPU torch its
compiled extension cannot be loaded, and `import torchaudio` raises OSError instead of doing
without, although what this project and FunASR use of it (`compliance.kaldi`,
`functional.resample`) is plain Python.
"""

from __future__ import annotations

import importlib
import sys

_LOADER = "torchaudio._extension.utils"


def ensure_torchaudio() -> None:
    """Import torchaudio, without its compiled extension where that cannot be loaded.

    Call it before anything imports torchaudio, which importing FunASR does. Raises what
    `import torchaudio` raises when something else is wrong.
    """
    try:
        importlib.import_module("torchaudio")
    except OSError:
        # Python forgets a package whose import failed but keeps the submodules that succeeded, so
        # the second attempt meets this loader. It answers as for a wheel without an extension.
        loader = sys.modules.get(_LOADER)
        if loader is None:
            raise
        vars(loader)["_load_lib"] = lambda lib: False
        importlib.import_module("torchaudio")
