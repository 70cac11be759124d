"""How large the Workflow of a run becomes, which a cluster keeps as one object."""
