"""Optimizers on plain TensorFlow variables: what all share, and the rules SGD, LARS and NovoGrad.

Keras' optimizers do not fit: a step that is not finite must be skipped, momenta are saved under the variables' names,
and Tensorpack clips after adding the weight decay. The tests compare each rule with one written in NumPy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import keras
import tensorflow as tf

from mrcnn_ops import apply_sgd, gradient_norm

NORMS = ("gamma", "beta")  # names of the scales and shifts of norms


class Parameter(NamedTuple):
    """A trainable variable with the options of its kind.

    Attributes:
        value: the variable, float32.
        weight_decay: this times the value is added to the gradient.
        rate_factor: the learning rate of the step is multiplied by this.
        is_kernel: LARS adapts the rate of kernels only, not of biases and norms.
    """

    value: tf.Variable
    weight_decay: float
    rate_factor: float
    is_kernel: bool


class Step(NamedTuple):
    """What a rule needs of a step. Nothing here makes the host wait for the device, as `tf.cond` would on a GPU.

    Attributes:
        rate: learning rate, float32 scalar.
        scale: the gradients are multiplied by this, float32 scalar.
        clip: so are the gradients with what is clipped with them, float32 scalar.
        is_taken: bool scalar; False for a step that is not finite.
    """

    rate: tf.Tensor
    scale: tf.Tensor
    clip: tf.Tensor
    is_taken: tf.Tensor

    def assign(self, variable: tf.Variable, value: tf.Tensor) -> tf.Tensor:
        """Assign a value if the step is taken; return the variable's value after that."""
        kept = tf.where(self.is_taken, value, variable)
        variable.assign(kept)
        return kept


Slots: TypeAlias = dict[str, tf.Variable]


class Rule(Protocol):
    """How gradients change the parameters."""

    def slots(self, parameter: Parameter) -> Slots:
        """Make the variables that the rule needs for a parameter."""
        ...

    def norm(self, parameters: Sequence[Parameter], gradients: Sequence[tf.Tensor], scale: tf.Tensor) -> tf.Tensor:
        """Return the norm, over all parameters, of what is clipped: float32 scalar."""
        ...

    def update(
        self, parameters: Sequence[Parameter], gradients: Sequence[tf.Tensor], slots: Sequence[Slots], step: Step
    ) -> None:
        """Change the parameters and their slots; a step that is not taken leaves their values."""
        ...


class Sgd:
    """SGD with momentum: v = momentum v + g; w = w - rate v. As in Tensorpack, g is clipped with weight decay in it."""

    def __init__(self, *, momentum: float) -> None:
        self._momentum = momentum

    def slots(self, parameter: Parameter) -> Slots:
        return {"momentum": zeros_like(parameter.value)}

    def norm(self, parameters: Sequence[Parameter], gradients: Sequence[tf.Tensor], scale: tf.Tensor) -> tf.Tensor:
        values = [parameter.value for parameter in parameters]
        return gradient_norm(gradients, values, weight_decays=[p.weight_decay for p in parameters], scale=scale)

    def update(
        self, parameters: Sequence[Parameter], gradients: Sequence[tf.Tensor], slots: Sequence[Slots], step: Step
    ) -> None:
        apply_sgd(
            [parameter.value for parameter in parameters],
            [of_parameter["momentum"] for of_parameter in slots],
            gradients,
            **step._asdict(),
            momentum=self._momentum,
            weight_decays=[parameter.weight_decay for parameter in parameters],
            rate_factors=[parameter.rate_factor for parameter in parameters],
        )


class LayerWise(ABC):
    """A rule that adapts the step to the norms of each layer. The weight decay is not clipped."""

    @abstractmethod
    def slots(self, parameter: Parameter) -> Slots: ...

    @abstractmethod
    def update_one(self, parameter: Parameter, gradient: tf.Tensor, slots: Slots, step: Step) -> None:
        """Change a parameter by a gradient that is scaled and clipped."""

    def norm(self, parameters: Sequence[Parameter], gradients: Sequence[tf.Tensor], scale: tf.Tensor) -> tf.Tensor:
        return scale * tf.linalg.global_norm(gradients)

    def update(
        self, parameters: Sequence[Parameter], gradients: Sequence[tf.Tensor], slots: Sequence[Slots], step: Step
    ) -> None:
        factor = tf.where(step.is_taken, step.scale * step.clip, 0.0)
        for parameter, gradient, of_parameter in zip(parameters, gradients, slots, strict=True):
            rate = step.rate * parameter.rate_factor
            # By 0, also NaN and infinity become 0.
            scaled = tf.math.multiply_no_nan(gradient, factor)
            self.update_one(parameter, scaled, of_parameter, step._replace(rate=rate))


class Lars(LayerWise):
    """Layer-wise adaptive rates (You et al. 2017): v = momentum v + rate local (g + decay w); w = w - v.

    local = trust |w| / (|g| + decay |w|) for kernels, if both norms are positive; else 1.
    """

    def __init__(self, *, momentum: float, trust: float = 0.001) -> None:
        self._momentum = momentum
        self._trust = trust

    def slots(self, parameter: Parameter) -> Slots:
        return {"momentum": zeros_like(parameter.value)}

    def update_one(self, parameter: Parameter, gradient: tf.Tensor, slots: Slots, step: Step) -> None:
        value, momentum = parameter.value, slots["momentum"]
        local = tf.constant(1.0)
        if parameter.is_kernel:
            weight_norm, layer_norm = tf.norm(value), tf.norm(gradient)
            share = self._trust * weight_norm / (layer_norm + parameter.weight_decay * weight_norm)
            local = tf.where((weight_norm > 0) & (layer_norm > 0), share, 1.0)
        change = step.rate * local * (gradient + parameter.weight_decay * value)
        step.assign(value, value - step.assign(momentum, self._momentum * momentum + change))


class NovoGrad(LayerWise):
    """Gradients divided by their layer's norm (Ginsburg et al. 2019, algorithm 1): m = b1 m + (g / sqrt(v) + decay w).

    v is the moving average of the layer's squared gradient norm and starts with that of the first step.
    """

    EPSILON = 1e-8  # avoids a division by zero for a layer whose gradient is zero

    def __init__(self, *, beta_1: float, beta_2: float = 0.98) -> None:
        self._beta_1 = beta_1
        self._beta_2 = beta_2

    def slots(self, parameter: Parameter) -> Slots:
        return {"momentum": zeros_like(parameter.value), "squared_norm": tf.Variable(-1.0, trainable=False)}

    def update_one(self, parameter: Parameter, gradient: tf.Tensor, slots: Slots, step: Step) -> None:
        value, momentum, squared_norm = parameter.value, slots["momentum"], slots["squared_norm"]
        square = tf.reduce_sum(tf.square(gradient))
        is_first = squared_norm < 0
        average = tf.where(is_first, square, self._beta_2 * squared_norm + (1 - self._beta_2) * square)
        direction = gradient / (tf.sqrt(step.assign(squared_norm, average)) + self.EPSILON)
        direction += parameter.weight_decay * value
        step.assign(value, value - step.rate * step.assign(momentum, self._beta_1 * momentum + direction))


class Optimizer:
    """Applies a rule to all parameters, with clipping by the global norm and a moving average of the weights.

    Args:
        variables: trainable variables.
        rule: the update rule.
        decayed: the kernels among the variables, which get `weight_decay`.
        bias_decay, norm_decay: weight decay of biases, and of the scales and shifts of norms.
        bias_rate_factor: learning rate of biases, as a multiple of that of the rest (2 in Caffe's and Detectron's
            recipes).
        clip_norm: limit of the global norm of all gradients; None for none.
        ema_decay: d of average = d average + (1 - d) w after every update; None for no average.

    Attributes:
        variables: those given.
        slots: variables of the rule, by name of the slot, one for each given variable; "average" is the average of the
            weights, if there is one.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        *,
        rule: Rule,
        decayed: Sequence[keras.Variable],
        weight_decay: float,
        clip_norm: float | None,
        bias_decay: float = 0.0,
        norm_decay: float = 0.0,
        bias_rate_factor: float = 1.0,
        ema_decay: float | None = None,
    ) -> None:
        self.variables = list(variables)
        self._rule = rule
        self._clip_norm = clip_norm
        self._ema_decay = ema_decay
        decayed_paths = {v.path for v in decayed}
        self._parameters = []
        for variable in self.variables:
            is_kernel = variable.path in decayed_paths
            is_norm = variable.name in NORMS
            self._parameters.append(
                Parameter(
                    value=variable.value,
                    weight_decay=weight_decay if is_kernel else norm_decay if is_norm else bias_decay,
                    rate_factor=bias_rate_factor if not is_kernel and not is_norm else 1.0,
                    is_kernel=is_kernel,
                )
            )
        self._slots = [rule.slots(parameter) for parameter in self._parameters]
        if ema_decay is not None:
            for parameter, slots in zip(self._parameters, self._slots, strict=True):
                slots["average"] = tf.Variable(parameter.value, trainable=False)

    @property
    def slots(self) -> dict[str, list[tf.Variable]]:
        names = self._slots[0] if self._slots else {}
        return {name: [slots[name] for slots in self._slots] for name in names}

    @property
    def has_average(self) -> bool:
        return self._ema_decay is not None

    def start_average(self) -> None:
        """Start the average at the current weights, which may have been loaded after the optimizer was made."""
        for parameter, slots in zip(self._parameters, self._slots, strict=True):
            if "average" in slots:
                slots["average"].assign(parameter.value)

    def apply(
        self, gradients: Sequence[tf.Tensor], *, learning_rate: tf.Tensor, is_finite: tf.Tensor, scale: Any = 1.0
    ) -> tf.Tensor:
        """Update the variables if the loss and the gradient are finite.

        Args:
            gradients: float32, one for each variable.
            learning_rate: float32 scalar.
            is_finite: bool scalar, whether the loss is finite.
            scale: float32 scalar, by which the gradients are to be multiplied.

        Returns:
            Global norm of the gradient before clipping (for SGD, with weight decay in it), float32 scalar.
        """
        scale = tf.convert_to_tensor(scale, tf.float32)
        norm = self._rule.norm(self._parameters, gradients, scale)
        clip = tf.constant(1.0)
        if self._clip_norm is not None:
            clip = tf.minimum(1.0, self._clip_norm / tf.maximum(norm, 1e-12))
        # The host sees the losses only when it logs: until then a NaN must not reach the weights. All gradients are
        # known before the first weight changes, since the norm needs them.
        step = Step(learning_rate, scale, clip, is_finite & tf.math.is_finite(norm))
        self._rule.update(self._parameters, gradients, self._slots, step)
        if self._ema_decay is not None:
            for parameter, slots in zip(self._parameters, self._slots, strict=True):
                average = slots["average"]
                step.assign(average, self._ema_decay * average + (1.0 - self._ema_decay) * parameter.value)
        return norm

    def swap_average(self) -> None:
        """Exchange the weights and their average; a second call reverses it. Do nothing without an average."""
        for parameter, slots in zip(self._parameters, self._slots, strict=True):
            if "average" in slots:
                weights = tf.identity(parameter.value)
                parameter.value.assign(slots["average"])
                slots["average"].assign(weights)


def zeros_like(value: tf.Variable) -> tf.Variable:
    """Make a variable of zeros of the same shape, which is not trainable."""
    return tf.Variable(tf.zeros(value.shape), trainable=False)
