"""Many models into one: task vectors over a base, averages on the sphere, and the spectral methods."""
