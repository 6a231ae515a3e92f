"""Run the project on EC2, EKS, SageMaker and Slurm; infra/README.md is the way in."""
