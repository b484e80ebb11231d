"""`make bench`: speed and memory of the service, each figure beside a baseline of the same run."""
