"""Training jobs on SageMaker: `launch` starts one, `entry` runs in its containers."""
