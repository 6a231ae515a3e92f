"""Statistics of a data set, and the sizes that suit it."""
