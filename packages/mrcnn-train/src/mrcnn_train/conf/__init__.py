"""Hydra's search path: the main config, the experiments, and the recipes that experiments share."""
