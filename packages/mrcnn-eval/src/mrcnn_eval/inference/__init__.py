"""A model over a data set or over pictures. Imports TensorFlow."""
