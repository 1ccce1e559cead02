"""Helpers of the course: one concept a module, on three floors.

- ground: ``validation``, ``precision``, ``counting``, ``data``, ``datasets``, ``grammar``, ``divergences``,
  ``loop``, ``training``, ``plotting``, ``redraw``
- models: ``mixtures``, ``sampling``, ``tape``, ``variational``, ``gan``, ``scoring``, ``vae``, ``autoregressive``,
  ``flows``
- desk: ``experiment``, ``audit``, ``exercises``, ``syllabus``, ``paper``, ``sheet``

A module imports from its own floor or from one below it, without circles. Import what you need from its module:
``from gm_utils.experiment import experiment``.
"""

__version__ = "0.1.0"
