"""Download the data set (`fetch`), and copy it to S3 and back (`stage`)."""
