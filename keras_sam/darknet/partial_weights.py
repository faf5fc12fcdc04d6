"""Weight files that are shorter or longer than the network needs. No Keras here."""

import math

from keras_sam.darknet import specs
from keras_sam.darknet.errors import DarknetError

_FLOAT_BYTES = 4
_HINT = "`partial=True` (--partial) loads what fits, as Darknet does"


def check_size(size, plan, source):
    """Raises unless `size` bytes are exactly the floats that the plan needs."""
    expected = sum(math.prod(shape) for _, _, shape in plan.blocks())
    found, rest = divmod(size, _FLOAT_BYTES)
    if size == expected * _FLOAT_BYTES:
        return
    total = (
        f"{plan.sections.source} needs {expected} floats after the header, and there "
        f"are {found}" + (f" and {rest} bytes" if rest else "")
    )
    classes = _other_classes(plan, found - expected)
    if classes is not None:
        total += f", which fits a network of {classes} classes"
    if found >= expected:
        left = size - expected * _FLOAT_BYTES
        raise DarknetError(
            f"the file is too long by {left} bytes: {total}. {_HINT}.", source
        )
    end = 0
    for layer, name, shape in plan.blocks():
        start, end = end, end + math.prod(shape)
        if end > found:
            raise DarknetError(
                f"the file is too short: {total}. They end in `{name}` of {layer.name}, "
                f"{found - start} of {end - start} floats into it. {_HINT}.",
                source,
                section=layer.section.name,
                index=layer.index,
            )


def notices(weights, plan, size, cutoff):
    """Returns what a partial load did not read, one line each.

    Args:
        weights: The `Weights` that was read.
        plan: The network.
        size: The bytes of the file after its header.
        cutoff: The first layer that was not to be read, or None.
    """
    parts = {(index, name): values for index, name, values in weights.parts}
    lines, untouched, needed = [], [], 0
    for layer in plan.layers:
        if not layer.blocks:
            continue
        loaded = weights.layers.get(layer.index, {})
        if not loaded and not any(index == layer.index for index, _ in parts):
            untouched.append(layer.name)
            continue
        for name, shape in layer.loaded_blocks.items():
            if name not in loaded:
                there = len(parts.get((layer.index, name), ()))
                lines.append(
                    f"`{name}` of {layer.name}: {there} of {math.prod(shape)} numbers "
                    "were read, the rest stays as initialised"
                )
    for layer, _, shape in plan.blocks():
        if cutoff is None or layer.index < cutoff:
            needed += math.prod(shape)
    if untouched:
        lines.append(f"these layers stay as initialised: {', '.join(untouched)}")
    found = size // _FLOAT_BYTES
    if cutoff is None and size != needed * _FLOAT_BYTES:
        if size > needed * _FLOAT_BYTES:
            left = size - needed * _FLOAT_BYTES
            lines.append(f"{left} bytes at the end of the file were not read")
        lines += _shifted(plan, found - needed, bool(parts))
    return lines


def _shifted(plan, difference, ends_inside):
    """Returns a warning about a complete file of another number of classes."""
    convolution = _first_head_convolution(plan)
    if convolution is None or not (difference > 0 or ends_inside):
        return []
    classes = _other_classes(plan, difference)
    if classes is None:
        reason = "If the file is of another number of classes"
    else:
        reason = f"The file fits a network of {classes} classes: if it is one"
    return [
        f"{reason}, all numbers from {convolution.name} on are wrong, as they would be in "
        f"Darknet; `cutoff={convolution.index}` (--cutoff) leaves them as initialised"
    ]


def _first_head_convolution(plan):
    indices = [head.sources[0] for head in plan.heads if head.sources[0] >= 0]
    return plan.layers[min(indices)] if indices else None


def _other_classes(plan, difference):
    """Returns the number of classes that explains a difference in floats, or None."""
    per_class, classes = 0, set()
    for head in plan.heads:
        source = plan.layers[head.sources[0]] if head.sources[0] >= 0 else None
        if not isinstance(source, specs.Convolution) or not hasattr(head, "anchors"):
            return None
        if source.batch_normalize or source.groups != 1 or source.owner != source.index:
            return None
        kernel = source.kernel
        per_class += len(head.anchors) * (1 + math.prod(kernel[1:]))
        classes.add(head.classes)
    if len(classes) != 1 or not per_class or difference % per_class:
        return None
    other = classes.pop() + difference // per_class
    return other if difference and other > 0 else None
