"""The one exception that a configuration or weight file can cause."""


class DarknetError(ValueError):
    """A `.cfg` or `.weights` file that cannot become a model, and where it fails.

    Args:
        message: What is wrong, without the place.
        source: The file, or `"<cfg>"` for text that came without one.
        line: The line in the `.cfg`, counted from 1.
        section: The section's name, such as `"sam"`.
        index: The layer's index, counted from 0 after `[net]`.
        option: The option that is wrong.

    Example:

    >>> from keras_sam import darknet
    >>> darknet.build_model("[net]\\nwidth=8\\nheight=8\\nchannels=3\\n[sam]\\nfrom=0")
    Traceback (most recent call last):
        ...
    keras_sam.darknet.errors.DarknetError: <cfg>, line 6, layer 0 [sam], option \
`from`: points at this layer itself. Received: from=0
    """

    def __init__(
        self, message, source=None, line=None, section=None, index=None, option=None
    ):
        self.message = message
        self.source = source
        self.line = line
        self.section = section
        self.index = index
        self.option = option
        self.about_sizes = False  # whether another input size could help
        super().__init__(message)

    def __str__(self):
        layer = "" if self.index is None else f"layer {self.index}"
        section = "" if self.section is None else f"[{self.section[:40]}]"
        place = [
            self.source or "",
            "" if self.line is None else f"line {self.line}",
            " ".join(part for part in (layer, section) if part),
            "" if self.option is None else f"option `{self.option}`",
        ]
        place = ", ".join(part for part in place if part)
        return f"{place}: {self.message}" if place else self.message

    def __reduce__(self):
        fields = (self.source, self.line, self.section, self.index, self.option)
        return type(self), (self.message, *fields)
