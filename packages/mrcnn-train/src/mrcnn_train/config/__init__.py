"""The options of a run: typed, checked, resolved, and the plan that follows from them."""
