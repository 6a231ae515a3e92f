"""The names of devices, known without TensorFlow."""

DEVICES = ("auto", "cpu", "gpu")  # auto: a GPU where there is one


class DeviceError(RuntimeError):
    """The wanted device cannot be used; one line that says what to do."""
