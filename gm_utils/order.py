"""A word to readers whose cell needs a name that is not there: most often the cells above have not been run.

It stands below the traceback, which stays as it is. ``gm_utils`` loads this module. Where it is installed, every kernel
loads ``gm_utils`` at its start (``etc/ipython/startup``), because after a restart a cell in the middle may be the first
to run. An uploaded copy brings the package along in its first code cell, and has these words from there on.
"""

import sys
import traceback
from typing import Any


def advise(result: Any) -> None:
    """Take IPython's result of a cell; if the cell missed a name of the notebook, say where to look for it."""
    error = result.error_in_exec
    if type(error) is not NameError or error.name is None:
        return
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals.get("__name__") == "__main__":  # else the name is missing in a library
        print(
            f"If a cell further up sets `{error.name}`, this kernel has not run it yet: run the cells above first "
            "(in JupyterLab: Run > Run All Above Selected Cell).",
            file=sys.stderr,
        )


# A kernel has loaded IPython already; nobody else needs it loaded.
_shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
if _shell is not None:
    _shell.events.register("post_run_cell", advise)
