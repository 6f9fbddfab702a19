"""What follows networks, each behind one function `look(case)`: what it found, cut and got right."""
