"""Helpers of the course: one concept a module, on three floors.

ground: ``validation``, ``data``, ``divergences``, ``training``, ``plotting``;
models: ``sampling``;
desk: ``experiment``, ``audit``, ``exercises``.

A module imports from its own floor or from one below it.
"""

__version__ = "0.1.0"
