"""Tests of docker/ and infra/: `make test-infra`, `make test-docker`."""
