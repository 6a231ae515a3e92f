"""What the network should learn: targets, sampling, losses."""
