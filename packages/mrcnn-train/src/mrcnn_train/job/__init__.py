"""The processes of a job: start, exchange, stop."""
