"""Jobs on EC2 machines, or any others that ssh reaches: `python -m infra.ec2.job`."""
