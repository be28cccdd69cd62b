"""GPU kernels in Triton, each with a reference in plain torch. None is needed so far."""
