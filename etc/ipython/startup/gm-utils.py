"""Run by every kernel of the environment at its start: see gm_utils.order for what it brings."""

import gm_utils

del gm_utils
