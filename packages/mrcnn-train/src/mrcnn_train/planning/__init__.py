"""What a run plans by itself: steps that fit into a time budget, and options that suit the data and the machine."""
