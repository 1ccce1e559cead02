"""Helpers of the course: one concept a module, on three floors.

- ground: ``order``, ``validation``, ``precision``, ``counting``, ``data``, ``datasets``, ``grammar``, ``divergences``,
  ``loop``, ``training``, ``plotting``, ``redraw``
- models: ``mixtures``, ``sampling``, ``tape``, ``variational``, ``gan``, ``networks``, ``scoring``, ``vae``,
  ``autoregressive``, ``flows``
- desk: ``experiment``, ``audit``, ``exercises``, ``syllabus``, ``paper``

A module imports from its own floor or from one below it, without circles. Import what you need from its module:
``from gm_utils.experiment import experiment``.
"""

import os

from gm_utils import order  # noqa: F401

# Read by JAX when it is imported. A GPU would else round the factors of every matrix product to ten bits (TF32), and an
# identity that holds to five digits on a processor would fail. Processors take no notice; a setting of your own holds.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

__version__ = "0.1.0"
