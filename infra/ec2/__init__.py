"""Training on EC2 instances of one's account."""
