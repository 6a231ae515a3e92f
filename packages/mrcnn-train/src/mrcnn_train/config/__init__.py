"""Options of a run: types, composition, plan and schedule."""
