"""Tools of the project that no user runs: out of the wheel and the images."""
