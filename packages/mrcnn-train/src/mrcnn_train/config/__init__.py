"""The options of a run, typed, checked and resolved, and the plan computed from them."""
