"""What the house prints, for lecturers and for paper: ``questions`` and ``sheet``. No notebook imports it."""
