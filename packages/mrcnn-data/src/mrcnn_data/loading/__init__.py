"""From a data set to padded batches."""
