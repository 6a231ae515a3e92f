"""The names of devices, known without TensorFlow."""

DEVICES = ("auto", "cpu", "gpu")  # auto: a GPU, or the CPU where there is none; a GPU that cannot be used is an error
CPU = "CPU"  # name of a `Device` that is none


class DeviceError(RuntimeError):
    """The wanted device cannot be used; one line that says what to do."""
