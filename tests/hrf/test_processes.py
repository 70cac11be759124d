"""Several processes of one step: what each does, how their ends are told, and that nothing is left of them."""
