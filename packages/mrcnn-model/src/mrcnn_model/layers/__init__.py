"""The layers of the network."""
